"""Pictures from strangers: small files that claim much, and what Pillow trips over."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from common import blank_png, encoded, limited
from PIL import Image

from preprocess.errors import DecodeError
from preprocess.image import decode_fitted, decode_rgb, orientation
from preprocess.mask import decode_label, decode_mask

DECODES = """
import json, sys, time
from pathlib import Path
from preprocess.errors import DecodeError
from preprocess.image import decode_fitted, decode_rgb
from preprocess.mask import decode_label, decode_mask

def most():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

answers = {}
for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    for decode in (decode_rgb, lambda d: decode_fitted(d, 64), decode_mask,
                   lambda d: decode_label(d, "x")):
        before = most()
        try:
            decode(data)
            answer = "decoded"
        except DecodeError as error:
            answer = error.problem
        answers.setdefault(path.name, []).append((answer, most() - before))
print(json.dumps(answers))
"""


def claiming(data: bytes, side: int) -> bytes:
    """Change the size in the header of a JPEG."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_small_files_that_claim_much_take_no_memory(tmp_path: Path) -> None:
    small = Image.new("RGB", (16, 16))
    files = {
        "baseline.jpg": claiming(encoded(small, "JPEG"), 65_500),
        "progressive.jpg": claiming(encoded(small, "JPEG", progressive=True), 65_500),
        "inflates.png": blank_png(60_000, 60_000, 0, claimed=64),
        "large-grey.png": blank_png(50_000, 50_000, 0),
        "large-rgba.png": blank_png(13_300, 13_300, 6),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert len(data) < 4e6, name
    answers = json.loads(limited(DECODES, *(tmp_path / name for name in files)))
    assert answers.keys() == files.keys()
    for name, outcomes in answers.items():
        for answer, megabytes in outcomes:
            assert megabytes < 100, (name, answer, megabytes)
            if name != "inflates.png":
                assert "more than" in answer or "exceeds limit" in answer, (name, answer)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_fifty_megapixels_pass_in_bounded_memory(tmp_path: Path) -> None:
    large = Image.new("RGB", (8160, 6120), "red")
    (tmp_path / "a.jpg").write_bytes(encoded(large, "JPEG", progressive=True))
    (tmp_path / "b.png").write_bytes(blank_png(8160, 6120, 6))
    (tmp_path / "c.png").write_bytes(blank_png(8160, 6120, 2))
    answers = json.loads(limited(DECODES, *sorted(tmp_path.iterdir())))
    for name, outcomes in answers.items():
        assert [answer for answer, _ in outcomes[:3]] == ["decoded"] * 3, name
        assert "megapixels" in outcomes[3][0], "no label map is as large"
        assert sum(megabytes for _, megabytes in outcomes) < 600, (name, outcomes)


def test_the_limit_can_be_set_and_names_the_option() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(Image.new("RGB", (300, 200)), kind)
        for decode in (decode_rgb, decode_mask):
            assert decode(data, max_megapixels=0.06).shape[:2] == (200, 300)
            with pytest.raises(DecodeError, match=r"^a: has 300 x 200 pixels, more than 0\.05 meg"):
                decode(data, "a", max_megapixels=0.05)
        with pytest.raises(DecodeError, match="raise --max-megapixels"):
            decode_fitted(data, 32, "a", max_megapixels=0.05)


def test_a_picture_that_pillow_trips_over_is_named(tmp_path: Path) -> None:
    Image.new("F", (16, 16)).save(tmp_path / "a.spi", "SPIDER")
    data = bytearray((tmp_path / "a.spi").read_bytes())
    data[104:108] = struct.pack("=f", 1)  # the first image of a stack, without the stack
    for decode in (decode_rgb, decode_mask):
        with pytest.raises(DecodeError, match=r"^a\.jpg: cannot be decoded"):
            decode(bytes(data), "a.jpg")


def exif(number: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = number
    return tags.tobytes()


def test_a_comment_about_exif_turns_nothing() -> None:
    picture = Image.new("RGB", (32, 16))
    for comment in (exif(6), b"Exif\0\0 as in " + exif(8)):
        data = encoded(picture, "JPEG", comment=comment)
        assert exif(6)[:6] in data
        assert decode_rgb(data).shape == (16, 32, 3)
        assert orientation(data) == 1
    turned = encoded(picture, "JPEG", comment=exif(3), exif=exif(6))
    assert (orientation(turned), decode_rgb(turned).shape) == (6, (32, 16, 3))
    padded = turned[:2] + b"\xff\xff" + turned[2:]
    assert (orientation(padded), decode_rgb(padded).shape) == (6, (32, 16, 3))


def test_a_mask_that_exif_turns_is_turned() -> None:
    mask = np.zeros((16, 32), np.uint8)
    mask[:4, :8] = 255  # after a turn to the right: at the top, on the right
    for kind in ("PNG", "TIFF", "JPEG"):
        data = encoded(Image.fromarray(mask), kind, exif=exif(6))
        upright = decode_mask(data)
        assert upright.shape == (32, 16)
        assert upright[2, 14] == 255
        assert upright.sum() == pytest.approx(255 * 32, rel=0.1)


def test_big_endian_and_float_grey_keep_their_range() -> None:
    levels = np.zeros((16, 16), np.uint16)
    levels[:, 8:] = 0xFFFF
    big = Image.fromarray(levels.astype(">u2"))
    for picture in (big, Image.fromarray((levels / 0xFFFF).astype(np.float32))):
        data = encoded(picture, "TIFF")
        assert decode_rgb(data)[0, [0, 15], 0].tolist() == [0, 255]
        assert decode_mask(data)[0, [0, 15]].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["RGB", "P", "1"])
def test_label_maps_of_other_modes_are_named(mode: str) -> None:
    with pytest.raises(
        DecodeError, match=r"^s, a: cannot be decoded as a label map.*expected grey"
    ):
        decode_label(encoded(Image.new(mode, (8, 8))), "s, a")

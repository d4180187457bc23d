"""Eye masks of every size and mode to binary maps, and those to label maps."""

import io
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from common import encoded, iou
from PIL import Image

from preprocess.errors import DecodeError
from preprocess.image import Geometry
from preprocess.inflate import inflate
from preprocess.mask import (
    LABELS,
    _filtered_rows,
    decode_label,
    decode_mask,
    encode_label,
    eye_boxes,
    eye_centres,
    fit_mask,
    label_map,
)

Levels = npt.NDArray[np.uint8]
FILTERS = [getattr(cv2, f"IMWRITE_PNG_FILTER_{kind}") for kind in ("SUB", "UP", "AVG", "PAETH")]
FILTERS.append(cv2.IMWRITE_PNG_ALL_FILTERS)


def blob(height: int = 40, width: int = 60) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width]
    squared = ((y - height * 0.4) / (height * 0.2)) ** 2 + ((x - width * 0.6) / (width * 0.3)) ** 2
    return np.asarray(squared < 1)


def levels(on: npt.NDArray[np.bool_], value: int = 255) -> Levels:
    return np.where(on, np.uint8(value), np.uint8(0))


def png(header: tuple[int, int, int, int, int], stream: bytes, cut: int = 0) -> bytes:
    """Build a PNG of (width, height, depth, colour, interlace); `cut` splits its IDAT there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        data = kind + body
        return struct.pack(">I", len(body)) + data + struct.pack(">I", zlib.crc32(data))

    head = struct.pack(">IIBBBBB", *header[:4], 0, 0, header[4])
    parts = filter(None, (stream[:cut], stream[cut:]))
    body = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def unfiltered(grey: Levels) -> bytes:
    return zlib.compress(np.pad(grey, ((0, 0), (1, 0))).tobytes())


def reference(data: bytes) -> npt.NDArray[np.bool_]:
    """Decode by Pillow alone: on where brighter than half of the brightest."""
    rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).max(axis=2).astype(int)
    return np.asarray(rgb > rgb.max() // 2)


def indexed(on: npt.NDArray[np.bool_], colours: list[int], **options: int) -> bytes:
    picture = Image.frombytes("P", on.shape[::-1], on.astype(np.uint8).tobytes())
    picture.putpalette(colours)
    return encoded(picture, **options)


ON = blob()
GREY = Image.fromarray(levels(ON))
TINTED = np.where(ON[..., None], [0, 0, 250], np.zeros(3)).astype(np.uint8)  # of luma 28
TINTED[:20][ON[:20]] = 130
CUT_OUT = Image.new("RGBA", GREY.size, (200, 10, 10))
CUT_OUT.putalpha(GREY)
MODES = {
    "L 255": encoded(GREY),
    "L 1": encoded(Image.fromarray(levels(ON, 1))),
    "L 225": encoded(Image.fromarray(levels(ON, 225))),
    "RGB": encoded(GREY.convert("RGB")),
    "RGB, red alone": encoded(Image.merge("RGB", [GREY, *[Image.new("L", GREY.size)] * 2])),
    "RGB, by its brightest channel": encoded(Image.fromarray(TINTED)),
    "1": encoded(GREY.convert("1")),
    "P, index 1 is colour 225": indexed(ON, [0, 0, 0, 225, 0, 0]),
    "P, index 1 is (0, 0, 1)": indexed(ON, [0, 0, 0, 0, 0, 1]),
    "P, index 0 is white": indexed(~ON, [255, 255, 255, 0, 0, 0]),
    "P, background transparent": indexed(ON, [9, 9, 9, 225, 0, 0], transparency=0),
    "L, bright background transparent": encoded(GREY.point([200] * 255 + [255]), transparency=200),
    "LA": encoded(GREY.convert("LA")),
    "RGBA opaque": encoded(GREY.convert("RGBA")),
    "RGBA, the eye is what is opaque": encoded(CUT_OUT),
    "I;16": encoded(Image.fromarray(levels(ON).astype(np.uint16) * 257)),
    "I;16, low": encoded(Image.fromarray(levels(ON, 3).astype(np.uint16))),
    "BMP": encoded(GREY, "BMP"),
    "JPEG": encoded(GREY, "JPEG", quality=100),
    "WebP": encoded(GREY.convert("RGB"), "WEBP", lossless=True),
}  # fmt: skip


@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_and_on_value_reads_alike(mode: str) -> None:
    np.testing.assert_array_equal(decode_mask(MODES[mode], mode), levels(ON), strict=True)


@pytest.mark.parametrize("seed", range(4))
def test_random_masks_decode_like_pillow_whoever_wrote_them(seed: int) -> None:
    chance = np.random.default_rng(seed)
    for _ in range(12):
        height, width = chance.integers(1, 90, 2)
        on = np.zeros((height, width), bool)
        for _ in range(chance.integers(0, 4)):
            y, x = chance.integers(0, height), chance.integers(0, width)
            on[y : y + chance.integers(1, 20), x : x + chance.integers(1, 30)] ^= True
        grey = levels(on, int(chance.choice([1, 128, 225, 255])))
        if chance.random() < 0.3:  # soft edges
            grey = np.asarray(cv2.blur(grey, (3, 3)), np.uint8)
        colour = np.repeat(grey[..., None], 3, 2)
        strategy = [cv2.IMWRITE_PNG_STRATEGY, int(chance.integers(0, 5)),
                    cv2.IMWRITE_PNG_COMPRESSION, int(chance.integers(0, 10))]  # fmt: skip
        ways = [strategy, *([cv2.IMWRITE_PNG_FILTER, rows] for rows in FILTERS)]
        for data in (
            encoded(Image.fromarray(grey), optimize=bool(chance.random() < 0.5)),
            encoded(Image.fromarray(colour), compress_level=int(chance.integers(0, 10))),
            png((width, height, 8, 0, 0), unfiltered(grey), cut=9),
            *(cv2.imencode(".png", picture, way)[1].tobytes()
              for way in ways for picture in (grey, colour)),
        ):  # fmt: skip
            np.testing.assert_array_equal(decode_mask(data), levels(reference(data)))


def test_interlaced_png() -> None:
    grey = levels(blob(21, 34))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    rows = [zlib.decompress(unfiltered(grey[y::dy, x::dx])) for y, x, dy, dx in passes]
    data = png((34, 21, 8, 0, 1), zlib.compress(b"".join(rows)))
    np.testing.assert_array_equal(reference(data), grey > 0)
    np.testing.assert_array_equal(decode_mask(data), grey)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16", "RGBA"])
def test_a_black_mask_is_empty_not_an_error(mode: str) -> None:
    assert not decode_mask(encoded(Image.new(mode, (30, 20)))).any()


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA"])
def test_flipped_and_cut_files_are_errors_that_name_the_file(mode: str) -> None:
    data = encoded(GREY.convert(mode))
    at = data.index(b"IDAT") + 4
    flipped = data[: at + 10] + bytes([data[at + 10] ^ 64]) + data[at + 11 :]
    for broken in (data[: at + 8], data[:30], data[: at - 8], flipped):
        with pytest.raises(DecodeError, match=r"^00007_l_eye\.png: cannot be decoded as a mask"):
            decode_mask(broken, "00007_l_eye.png")


def test_a_wrong_checksum_over_whole_pixels_does_no_harm() -> None:
    data = bytearray(MODES["RGB"])
    at = data.index(b"IDAT")
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 1
    np.testing.assert_array_equal(decode_mask(bytes(data)), levels(ON))


def test_a_header_that_is_damaged_or_lies_about_the_size_is_an_error() -> None:
    lies = [png((side, side, 8, 2, 0), zlib.compress(bytes(100))) for side in (4000, 2**31 - 1)]
    for at in (16, 18, 20, 22, 24, 25, 28, 30):
        data = bytearray(MODES["RGB"])
        data[at] ^= 0x7F
        lies.append(bytes(data))
    for lie in lies:
        with pytest.raises(DecodeError):
            decode_mask(lie)
    with pytest.raises(ValueError, match="cannot hold"):
        inflate(zlib.compress(bytes(100)), 2**40)
    with pytest.raises(ValueError, match="100 bytes instead of 99"):
        inflate(zlib.compress(bytes(100)), 99)


@pytest.mark.parametrize("size", [64, 96, 256, 512, 1024])
def test_the_area_is_kept_at_any_scale(size: int) -> None:
    chance = np.random.default_rng(size)
    areas = []
    for _ in range(30):
        mask = np.zeros((512, 512), np.uint8)
        (x, y), (wide, high) = chance.integers(60, 450, 2), chance.integers([15, 3], [40, 15])
        cv2.ellipse(mask, (x, y), (wide, high), float(chance.integers(0, 180)), 0, 360, 255, -1)
        fitted = int(fit_mask(mask, Geometry.fit(768, 768, size)).sum())
        areas.append((fitted, int((mask > 0).sum()) * (size / 512) ** 2))
        assert areas[-1][0] == pytest.approx(areas[-1][1], rel=0.02, abs=0.6)
    after, before = np.sum(areas, axis=0)
    assert after == pytest.approx(before, rel=0.005)


@pytest.mark.parametrize("turned", [False, True])
def test_lids_of_one_pixel_survive_in_place_and_unswollen(turned: bool) -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[201, 100:200] = 255
    fitted = fit_mask(mask.T.copy() if turned else mask, Geometry.fit(512, 512, 128))
    ys, xs = np.nonzero(fitted.T if turned else fitted)
    assert len(ys) == 6  # 100 pixels cover the area of 6.25
    assert set(ys) == {50}
    assert 25 < xs.min() <= xs.max() < 49  # the ends give way first
    corner = np.zeros((512, 512), np.uint8)
    corner[511, 0] = 255
    assert np.argwhere(fit_mask(corner, Geometry.fit(512, 512, 128))).tolist() == [[127, 0]]


def test_a_mask_lands_where_its_image_does() -> None:
    mask = np.zeros((300, 200), np.uint8)
    mask[60:90, 40:140] = 255
    place = Geometry.fit(1200, 800, 96)  # masks may have another size than their image
    ys, xs = np.nonzero(fit_mask(mask, place))
    scale = 96 / 300
    assert ys.mean() + 0.5 == pytest.approx(75 * scale, abs=0.5)
    assert xs.mean() + 0.5 == pytest.approx(16 + 90 * scale, abs=0.5)
    full = fit_mask(np.full((300, 200), 255, np.uint8), place)
    assert full[:, 16:80].sum() == full.sum() == 96 * 64  # the filled border is background
    right = levels(blob(48, 64))  # of the right size: only placed
    np.testing.assert_array_equal(fit_mask(right, Geometry.fit(480, 640, 64))[8:56], right > 0)
    small = levels(blob(32, 32))
    large = cv2.resize(small, (256, 256), interpolation=cv2.INTER_NEAREST) > 0
    assert iou(fit_mask(small, Geometry.fit(512, 512, 256)), large) > 0.93


def test_labels_tell_left_right_and_unknown_apart() -> None:
    assert LABELS == {"background": 0, "eye": 85, "l_eye": 170, "r_eye": 255}
    left, right = np.zeros((2, 64, 64), np.uint8)
    left[10:20, 40:60], right[10:20, 5:20] = 255, 255
    label = label_map({"r_eye": right, "l_eye": left}, Geometry.fit(64, 64, 64))
    np.testing.assert_array_equal(label, np.where(right, 255, np.where(left, 170, 0)))
    only = label_map({"eye": left}, Geometry.fit(64, 64, 64))
    np.testing.assert_array_equal(only, left // 3)
    assert not label_map({"eye": 0 * left}, Geometry.fit(50, 64, 48)).any()
    assert not label_map({}, Geometry.fit(50, 64, 64)).any()


@pytest.mark.parametrize("size", [2, 16, 250])
def test_labels_are_grey_pngs_for_every_reader_whoever_filtered_them(size: int) -> None:
    label = np.random.default_rng(size).choice(np.array([0, 85, 170, 255], np.uint8), (size, size))
    data = encode_label(label)
    assert Image.open(io.BytesIO(data)).mode == "L"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), label)
    np.testing.assert_array_equal(decode_label(data, "a"), label)
    assert not _filtered_rows(data, 1)[0][:, 0].any(), "the quick way"
    ramp = np.arange(60 * size).reshape(size, 60).astype(np.uint8)
    theirs = encoded(Image.fromarray(ramp))
    assert _filtered_rows(theirs, 1)[0][:, 0].any(), "Pillow filters a ramp"
    np.testing.assert_array_equal(decode_label(theirs, "b"), ramp)


def test_damaged_labels_are_named() -> None:
    data = encode_label(np.full((8, 8), 255, np.uint8))
    for damaged in (b"", b"\0" * 40, data[:30], data[:45] + b"\xff" * 12, MODES["RGB"]):
        with pytest.raises(DecodeError, match="^shard 3: cannot be decoded as a label map"):
            decode_label(damaged, "shard 3")


def test_eyes_are_found_at_the_very_edge_too() -> None:
    label = np.zeros((32, 40), np.uint8)
    label[0:3, 0:4], label[28:32, 35:40], label[16, 20] = 255, 170, 255
    assert eye_boxes(label) == [(37.0, 29.5, 5.0, 4.0), (1.5, 1.0, 4.0, 3.0)]
    moved = np.pad(label, ((5, 0), (7, 0)))
    assert eye_boxes(moved) == [(44.0, 34.5, 5.0, 4.0), (8.5, 6.0, 4.0, 3.0)]
    assert eye_centres(moved) == [[9.0, 6.5], [44.5, 35.0]], "from the corner of the corner pixel"
    assert eye_boxes(np.zeros((8, 8), np.uint8)) == []

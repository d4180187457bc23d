"""Sources that are damaged or ambiguous: zips, names, masks that do not fit, ids in two splits."""

import os
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from common import IMAGES, MASKS, call, encoded, limited, zeros
from PIL import Image

from preprocess.celebamask import read_plan
from preprocess.cli import main
from preprocess.errors import InputError
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, PackReport, pack

MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTS = f"{MASKS}/0"
SETTINGS = PackSettings(size=32, samples_per_shard=8)


def run(source: Path, out: Path) -> PackReport:
    return pack(PackConfig(source, out, SETTINGS, workers=1))


def reasons(report: PackReport) -> dict[str, str]:
    return {row.key: row.reason for row in report.manifest.dropped}


def zipped(source: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(source.rglob("*")):
            file.write(path, path.relative_to(source).as_posix())
    return archive


def listed(data: bytes, name: str) -> int:
    """Return where a zip's directory has the entry of a file."""
    return data.rindex(name.encode()) - 46


def put(data: bytearray, at: int, kind: str, value: int) -> None:
    data[at : at + struct.calcsize(kind)] = struct.pack(kind, value)


def test_a_member_that_holds_more_than_it_says_is_damaged(source: Path, tmp_path: Path) -> None:
    archive, name = zipped(source, tmp_path / "a.zip"), f"{IMAGES}/3.jpg"
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{IMAGES}/90.jpg", b"?" * 100)
    data, bomb = archive.read_bytes(), zeros(3 << 30, raw=True)
    at = listed(data, f"{IMAGES}/90.jpg")
    (offset,) = struct.unpack_from("<I", data, at + 42)
    (packed,) = struct.unpack_from("<I", data, at + 20)
    begin = offset + 30 + len(f"{IMAGES}/90.jpg")
    grown = bytearray(data[:begin] + bomb + data[begin + packed :])
    put(grown, at + len(bomb) - packed + 20, "<I", len(bomb))
    end = grown.rindex(b"PK\5\6")
    put(grown, end + 16, "<I", struct.unpack_from("<I", grown, end + 16)[0] + len(bomb) - packed)
    archive.write_bytes(grown)
    code = """
import sys
from pathlib import Path
from preprocess.celebamask import read_plan
from preprocess.errors import DecodeError
(image,) = (s.image for s in read_plan(Path(sys.argv[1]), "test").samples if s.key == "00090")
try:
    image.read(Path(sys.argv[1]))
except DecodeError as error:
    print(image.size, error.problem)
"""
    (source / MAPPING).unlink()
    with zipfile.ZipFile(archive) as file:
        assert name in file.namelist()
    plain = archive.read_bytes().replace(MAPPING.encode(), MAPPING.replace(".", "_").encode())
    archive.write_bytes(plain)
    assert limited(code, archive, megabytes=1500) == "100 is damaged in the zip\n"


@pytest.mark.parametrize("size", [2**62, 2**64 - 1])
@pytest.mark.parametrize("place", [24, 20, 42], ids=["size", "packed", "offset"])
def test_impossible_sizes_in_a_zip_drop_the_file_alone(
    place: int, size: int, source: Path, tmp_path: Path
) -> None:
    archive, name = zipped(source, tmp_path / "a.zip"), f"{IMAGES}/3.jpg"
    data = bytearray(archive.read_bytes())
    at = listed(bytes(data), name)
    put(data, at + place, "<I", 2**32 - 1)
    extra = struct.pack("<HHQ", 1, 8, size)
    put(data, at + 30, "<H", len(extra))
    data[at + 46 + len(name) : at + 46 + len(name)] = extra
    end = data.rindex(b"PK\5\6")
    put(data, end + 12, "<I", struct.unpack_from("<I", data, end + 12)[0] + len(extra))
    archive.write_bytes(data)
    report = run(archive, tmp_path / "out")
    assert list(reasons(report)) == ["00003"]
    assert report.manifest.samples == 39


def test_names_and_numbers_of_any_length_are_left_out_or_shown(
    source: Path, tmp_path: Path
) -> None:
    archive, digits = zipped(source, tmp_path / "a.zip"), "7" * 5000
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(f"{IMAGES}/{digits}.jpg", b"?")
        file.writestr(f"{PARTS}/{digits}_l_eye.png", b"?")
    assert reasons(run(archive, tmp_path / "out")) == {
        f"{digits}.jpg": "image name is not a number"
    }
    mapping = source / MAPPING
    for line in (f"{digits} 1 x", f"1 {digits} x"):
        mapping.write_text(f"0 1 x\n{line}\n")
        with pytest.raises(InputError, match="mapping.txt, line 2: reads") as caught:
            read_plan(source)
        assert len(str(caught.value)) < 400


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_no_utf8_is_left_out_and_can_be_printed(
    source: Path, tmp_path: Path
) -> None:
    shutil.copy(source / IMAGES / "3.jpg", os.fsencode(source / IMAGES) + b"/b\xfcste.jpg")
    done = call(main, "--data", source, "--out", tmp_path / "out", "--size", 32, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert "b\\xfcste.jpg: its name is not UTF-8" in done.output
    assert Manifest.load(tmp_path / "out").samples == 40


# --- labels that would be distorted ------------------------------------------------------------


def exif(number: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = number
    return tags.tobytes()


def pair(root: Path, name: str, photo: tuple[int, int], mask: tuple[int, int], turn: int) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    levels = np.zeros(mask[::-1], np.uint8)
    levels[: mask[1] // 4, : mask[0] // 4] = 255
    Image.fromarray(levels).save(root / "masks" / f"{name}.png")
    options = {"exif": exif(turn)} if turn > 1 else {}
    data = encoded(Image.new("RGB", photo), "JPEG", **options)
    (root / "images" / f"{name}.jpg").write_bytes(data)


def test_masks_that_do_not_fit_their_photograph_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "in"
    pair(root, "same", (64, 48), (64, 48), 1)
    pair(root, "half-and-rounded", (101, 67), (50, 34), 1)
    pair(root, "stretched", (64, 48), (64, 64), 1)
    pair(root, "cut", (640, 480), (640, 470), 1)
    pair(root, "turned-mask-upright", (64, 48), (48, 64), 6)
    pair(root, "turned-mask-not", (64, 48), (64, 48), 6)
    pair(root, "upside-down", (64, 48), (64, 48), 3)
    pair(root, "square", (64, 64), (64, 64), 8)
    report = run(root, tmp_path / "out")
    found = reasons(report)
    assert sorted(found) == ["cut", "square", "stretched", "turned-mask-not", "upside-down"]
    assert (
        "stretched.png: is 64 x 64, another shape than its photograph, 64 x 48"
        in found["stretched"]
    )
    assert "is turned by its EXIF orientation, 3" in found["upside-down"]
    assert report.manifest.samples == 3


# --- a zip's directory, a mapping --------------------------------------------------------------


def test_a_directory_that_hides_entries_is_refused(source: Path, tmp_path: Path) -> None:
    archive = zipped(source, tmp_path / "a.zip")
    whole = archive.read_bytes()
    data = bytearray(whole)
    put(data, listed(whole, f"{IMAGES}/3.jpg") + 32, "<H", 60_000)  # the length of a comment
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.zip: is no zip \(its list has \d+ files instead of"):
        read_plan(archive)
    archive.write_bytes(whole)
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = b"PK\5 is what this comment begins with"
    assert len(read_plan(archive).samples) == 40


@pytest.mark.slow
def test_a_zip_of_more_than_65535_files_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for number in range(66_000):
            file.writestr(f"{MASKS}/0/{number:05d}_hair.png", b"")
        file.writestr(f"{MASKS}/0/00001_l_eye.png", b"?")
        file.writestr(f"{IMAGES}/1.jpg", b"?")
    assert len(read_plan(tmp_path / "a.zip").samples) == 1


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_entries_of_one_name_are_said(source: Path, tmp_path: Path) -> None:
    archive = zipped(source, tmp_path / "a.zip")
    first = read_plan(archive)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(f"{IMAGES}/3.jpg", b"second")
    plan = read_plan(archive)
    assert [row.key for row in plan.dropped] == ["00003"]
    assert "which was taken" in plan.dropped[0].reason
    assert [s.image for s in plan.samples][3].offset == first.samples[3].image.offset


def test_an_id_in_two_splits_is_an_error(source: Path) -> None:
    mapping = source / MAPPING
    lines = mapping.read_text()
    mapping.write_text(f"{lines}3 3 000004.jpg\n")
    assert len(read_plan(source).samples) == 40, "twice the same does no harm"
    mapping.write_text(f"{lines}3 190000 x\n")
    with pytest.raises(InputError, match=r"mapping\.txt, line 42: puts 3 into test, .* another"):
        read_plan(source)

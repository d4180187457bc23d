"""Photographs that are none, or have odd names: each is named, and the others are done."""

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

import common
import pytest
from PIL import Image

from infer import Predictor
from infer.cli import main
from preprocess.errors import InputError

call = partial(common.call, main)


@pytest.fixture(scope="module")
def photo(faces: Path) -> Path:
    """A drawn face in which the bundled network sees eyes."""
    predictor = Predictor.bundled()
    photos = sorted((faces / "CelebA-HQ-img").glob("*.jpg"))
    return next(path for path in photos if len(predictor.predict(path, "whole").eyes) == 2)


@pytest.fixture
def folder(photo: Path, tmp_path: Path) -> Path:
    """Return a folder with a good photograph at either end of the alphabet."""
    place = tmp_path / "photos"
    place.mkdir()
    for name in ("aa.jpg", "zz.jpg"):
        (place / name).write_bytes(photo.read_bytes())
    return place


def pictures(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_what_is_no_regular_file_is_named_and_neither_waited_for_nor_read(
    folder: Path, tmp_path: Path
) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "gone.jpg").symlink_to("nothing")
    (folder / "folder.jpg").mkdir()
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(100 << 30)
    out = tmp_path / "out"
    done = call("--image", folder, "--output", out)
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    names = ("folder", "gone", "loop", "pipe", "sparse", "zero")  # in order
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"Error: {folder / name}.jpg: "), line
    assert pictures(out) == {"aa_eyes.png", "zz_eyes.png"}
    (folder / "folder.jpg" / "inner.jpg").write_bytes((folder / "aa.jpg").read_bytes())
    again = call("--image", folder, "--output", tmp_path / "2", "--recursive")
    assert len(again.stderr.splitlines()) == 5, "a folder is looked into instead"
    assert (tmp_path / "2" / "folder.jpg" / "inner_eyes.png").is_file()
    for name in ("pipe.jpg", "zero.jpg", "folder.jpg"):
        with pytest.raises(InputError, match=f"{name}: is a folder, a pipe or a device"):
            Predictor.bundled().predict(folder / name)
    common.fails(call("--image", folder / "pipe.jpg"), "pipe.jpg: is a folder")


def test_names_of_any_kind_are_done_or_are_one_line(folder: Path, tmp_path: Path) -> None:
    odd = [
        os.fsdecode(name) for name in (b"new\nline.jpg", b"100%d.jpg", b"[a]*?.jpg", b"l\xff.jpg")
    ]
    for name in (*odd, "x" * 251 + ".jpg"):
        (folder / name).write_bytes((folder / "aa.jpg").read_bytes())
    (folder / os.fsdecode(b"bad\n\xff.png")).write_text("no picture")
    out, words = tmp_path / "out", ("--faces", "whole", "--json")
    done = call("--image", folder, *words, "--output", out, "--csv", tmp_path / "t.csv")
    assert done.exit_code == 2
    bad, long = done.stderr.splitlines()
    assert bad.startswith(f"Error: {folder}/bad\\n\\udcff.png: cannot be decoded")
    assert long.startswith("Error: ")
    assert "x" * 251 in long
    stems = [Path(name).stem for name in (*odd, "aa.jpg", "zz.jpg")]
    assert pictures(out) == {f"{s}_eyes{e}" for s in stems for e in (".png", ".json")}
    rows = (tmp_path / "t.csv").read_bytes()
    assert rows.count(b"l\xff.jpg") == 2
    for name in odd:
        alone = call("--image", folder / name, *words, "--output", tmp_path / "one.png")
        assert (alone.exit_code, alone.stderr) == (0, "")
        (tmp_path / "one.png").unlink()
        (tmp_path / "one.json").unlink()
    common.fails(call("--image", folder / "no\nne.jpg"), "no\\nne.jpg: does not exist")


def spider() -> bytes:
    """Return a SPIDER image out of a stack: Pillow asks for an attribute that it has not set."""
    header = dict.fromkeys(range(1, 28), 0.0)
    header |= {1: 1, 2: 4, 5: 1, 12: 4, 13: 1, 22: 108, 23: 108, 27: 1}
    return struct.pack(">27f", *header.values()) + bytes(64)


def test_a_file_that_pillow_stumbles_over_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "spider.jpg").write_bytes(spider())
    for more in ((), ("--write", "mask", "--faces", "whole")):
        done = call("--image", folder, "--output", tmp_path / f"out{len(more)}", *more)
        common.fails(done, "spider.jpg: cannot be decoded")
        assert pictures(tmp_path / f"out{len(more)}") == {"aa_eyes.png", "zz_eyes.png"}


@pytest.mark.parametrize("error", [AttributeError, KeyError, ZeroDivisionError, struct.error])
def test_whatever_a_decoder_raises_the_others_are_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:  # fmt: skip
    (folder / "bad.jpg").write_bytes(b"bad")

    def stumble(file: BinaryIO) -> Image.Image:
        if file.read() == b"bad":
            raise error("deep inside")
        file.seek(0)
        return opened(file)

    opened = Image.open
    monkeypatch.setattr(Image, "open", stumble)
    out = tmp_path / "out"
    done = call("--image", folder, "--output", out)
    common.fails(done, "bad.jpg: cannot be decoded", "deep inside")
    assert pictures(out) == {"aa_eyes.png", "zz_eyes.png"}


def test_a_photograph_of_too_many_pixels_is_refused_by_its_header(
    folder: Path, photo: Path, tmp_path: Path
) -> None:
    data = bytearray(common.encoded(Image.new("L", (100, 100))))
    data[16:24] = struct.pack(">II", 12000, 9000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (folder / "large.png").write_bytes(data)
    for faces in ("auto", "whole"):
        words = ("--image", folder, "--write", "mask", "--faces", faces, "--output")
        done = call(*words, tmp_path / faces)
        common.fails(
            done, "large.png: ", "12000 x 9000 pixels", "100 megapixels", "--max-megapixels"
        )
        assert pictures(tmp_path / faces) == {"aa_eyes.png", "zz_eyes.png"}
    small = call("--image", photo, "--output", tmp_path / "a.png", "--max-megapixels", 0.06)
    common.fails(small, "256 x 256 pixels", "0.06 megapixels")
    with pytest.raises(InputError, match="256 x 256 pixels"):
        Predictor.from_checkpoint(None, max_megapixels=0.06).predict(photo.read_bytes())


def test_a_table_never_replaces_a_photograph(folder: Path, tmp_path: Path) -> None:
    before = (folder / "aa.jpg").read_bytes()
    words = ("--image", folder, "--output", tmp_path / "out", "--csv", folder / "aa.jpg")
    common.fails(call(*words, "--overwrite"), "aa.jpg: is what is to be segmented")
    assert (folder / "aa.jpg").read_bytes() == before


def test_a_number_of_five_thousand_digits_is_no_number_of_faces(photo: Path) -> None:
    common.fails(call("--image", photo, "--faces", "9" * 5000), "--faces: is '999")


INFER = [sys.executable, "-m", "infer"]


def start(folder: Path, photo: Path, out: Path, count: int) -> subprocess.Popen[str]:
    """Start a run over many photographs, and wait for its first result."""
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(photo.read_bytes())
    words = [*INFER, "--image", str(folder), "--output", str(out), "--write", "mask"]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (out.is_dir() and any(out.glob("*.png"))):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    return run


def test_ctrl_c_ends_a_folder_with_130_and_one_line(
    folder: Path, photo: Path, tmp_path: Path
) -> None:
    run = start(folder, photo, tmp_path / "out", 2000)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines() == ["Interrupted. What was finished is kept."]
    done = pictures(tmp_path / "out")
    assert 0 < len(done) < 2000
    assert all(name.endswith("_eyes.png") for name in done)


def test_what_a_killed_run_left_is_removed_by_the_next(
    folder: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = start(folder, photo, out, 0)
    run.kill()
    run.communicate(timeout=60)
    left = {f".{name}.{run.pid}.tmp" for name in ("a.png", "b\n.json", "c.mp4")}
    left |= {f".d.csv.{os.getpid()}.tmp"}  # a container's only process always has one number
    kept = {f".a.png.{os.getppid()}.tmp", ".a.png.tmp", f".a.txt.{run.pid}.tmp", "a.png.1.tmp"}
    for name in left | kept:
        (out / name).write_bytes(b"half")
    assert call("--image", folder, "--output", out, "--overwrite", "--write", "mask").exit_code == 0
    assert pictures(out) == kept | {"aa_eyes.png", "zz_eyes.png"}

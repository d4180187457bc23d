"""Rows of many photographs as Parquet parts: what they hold; a run goes on after any end."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import common
import pytest
from common import Patch, fails, loaded
from PIL import Image

from infer.cli import main
from infer.network import BUNDLED
from preprocess.errors import InputError
from preprocess.files import file_sha256, locked, read_file

pyarrow = pytest.importorskip("pyarrow", reason="needs pip install '.[parquet]'")
from pyarrow import parquet  # noqa: E402

from infer import parts  # noqa: E402

call = partial(common.call, main)
RUN = "from infer import parts; parts._MOST = 4; from infer.cli import main; main()"
FACTS = {"schema", "version", "weights", "faces", "max_megapixels", "digest", "count"}


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts, in their order."""
    tables = [parquet.read_table(path) for path in sorted(out.glob("part-*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def written(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name[0] != "."}


@pytest.fixture(scope="module")
def photos(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn faces, a picture without any, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted((faces / common.IMAGES).iterdir())[:10]:
        shutil.copy(path, folder / path.name)
    Image.new("RGB", (200, 100), "grey").save(folder / "grey.png")
    (folder / "text.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the rows of a run that nothing disturbed, of one part."""
    out = tmp_path_factory.mktemp("whole")
    done = call("--image", photos, "--parquet", out)
    assert done.exit_code == 2
    assert re.search(r"whole\d*: 12 photos, \d\d eye\(s\), 1 failed", done.stdout)
    assert list(written(out)) == ["part-000000.parquet"]
    return rows(out)


@pytest.fixture
def small_parts(monkeypatch: Patch) -> None:
    monkeypatch.setattr(parts, "_MOST", 4)


def test_rows_are_those_of_the_csv_and_each_photo_has_one(
    photos: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    call("--image", photos, "--output", tmp_path / "out", "--csv", tmp_path / "t.csv")
    table = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    eyes = [row for row in whole if row["problem"] is None]
    assert len(eyes) > 10
    assert [{k: str(v) for k, v in row.items() if k != "problem"} for row in eyes] == table
    others = [row for row in whole if row["problem"] is not None]
    assert all(v is None for row in others for k, v in row.items() if k not in {"photo", "problem"})
    said = {Path(row["photo"]).name: row["problem"] for row in others}
    assert said["grey.png"].startswith("no face was found")
    assert "text.png: cannot be decoded" in said["text.png"]
    assert {row["photo"] for row in whole} == {str(path) for path in photos.iterdir()}


@pytest.mark.usefixtures("small_parts")
def test_only_missing_parts_are_done_again(
    photos: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    words = ("--image", photos, "--parquet", tmp_path, "--workers", 2)
    first = call(*words)
    before = written(tmp_path)
    assert (first.exit_code, len(before)) == (2, 3)
    assert rows(tmp_path) == whole
    (tmp_path / "part-000001.parquet").unlink()
    (tmp_path / ".part-000001.parquet.99.tmp").write_bytes(b"of a killed run")
    assert call(*words).stdout == first.stdout, "what failed before counts, too"
    after = written(tmp_path)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"part-000001.parquet"}
    assert rows(tmp_path) == whole
    assert parquet.read_table(tmp_path).num_rows == len(whole), "the folder is one table"
    assert not list(tmp_path.glob(".*.tmp"))
    with locked(tmp_path):
        fails(call(*words), f"{tmp_path}: is in use by another run")


@pytest.mark.usefixtures("small_parts")
def test_a_run_with_something_else_is_refused_unless_told(
    photos: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    words = ["--image", photos, "--parquet", tmp_path / "out"]
    assert call(*words).exit_code == 2  # of text.png
    before = written(tmp_path / "out")
    other = tmp_path / "other.onnx"
    other.write_bytes(BUNDLED.read_bytes() + b"\x32\x05other")  # a remark, in ONNX's terms
    fewer = sorted(photos.iterdir())[:5]
    for number, given, what in (
        (0, [*words, "--model", other], "weights"), (0, [*words, "--faces", 1], "faces"),
        (0, [*words, "--max-megapixels", 5], "max_megapixels"),
        (1, [*fewer, *words[2:]], "photographs"),
    ):  # fmt: skip
        problem = f"part-00000{number}.parquet: is of a run with other {what}"
        fails(call(*given), problem, "or --overwrite to replace such parts")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "__version__", "99")
        fails(call(*words), "is of a run with other version.")
    assert written(tmp_path / "out") == before
    last = shutil.copy(photos / "grey.png", tmp_path)  # test_... comes behind photos...
    assert "13 photos" in call(*words, last).stdout
    assert before.items() < written(tmp_path / "out").items()
    (tmp_path / "out" / "mine.parquet").write_bytes(b"not a part")
    assert call(*fewer, *words[2:], "--overwrite").exit_code == 0
    after = written(tmp_path / "out")
    assert sorted(after) == ["mine.parquet", "part-000000.parquet", "part-000001.parquet"]
    assert after["part-000000.parquet"] == before["part-000000.parquet"], "it is the same"
    assert after["part-000001.parquet"] != before["part-000001.parquet"]


@pytest.mark.usefixtures("small_parts")
def test_a_photo_that_is_not_handed_over_is_a_row_until_it_is(
    photos: Path, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: Patch
) -> None:
    def flaky(path: Path) -> bytes:
        if path.name in {"1.jpg", "14.jpg"}:
            raise InputError(path, "cannot be read (Input/output error)", "Check the disk")
        return read_file(path)

    words = ("--image", photos, "--parquet", tmp_path, "--workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "read_file", flaky)
        assert "3 failed" in call(*words).stdout
    said = {Path(row["photo"]).name: row["problem"] for row in rows(tmp_path)}
    assert "14.jpg: cannot be read (Input/output error)" in said["14.jpg"]
    before = written(tmp_path)
    assert "1 failed" in call(*words).stdout
    after = written(tmp_path)
    assert [after[name] != before[name] for name in sorted(before)] == [True, True, False]
    assert rows(tmp_path) == whole


@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_run_goes_on_to_the_same_rows(
    photos: Path, whole: list[dict[str, Any]], tmp_path: Path, end: int, code: int,
    small_parts: None,
) -> None:  # fmt: skip
    words = [str(word) for word in ("--image", photos, "--parquet", tmp_path, "--workers", 2)]
    run = subprocess.Popen([sys.executable, "-c", RUN, *words], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("part-*.parquet")):
        assert run.poll() is None
        time.sleep(0.005)
    run.send_signal(end)
    assert run.wait(60) == code
    kept = written(tmp_path)
    for path in tmp_path.glob("part-*.parquet"):
        parquet.read_table(path)
    call(*words)
    assert {**written(tmp_path), **kept} == written(tmp_path)
    assert rows(tmp_path) == whole
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_part_is_compressed_and_says_what_it_was_made_from(photos: Path, tmp_path: Path) -> None:
    call("--image", photos, "--parquet", tmp_path)
    facts = parts._known(tmp_path / "part-000000.parquet")
    assert facts.keys() == FACTS
    assert facts["weights"] == file_sha256(BUNDLED)
    assert facts["count"]["photos"] == 12
    column = parquet.read_metadata(tmp_path / "part-000000.parquet").row_group(0).column(0)
    assert column.compression == "ZSTD"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text_are_rows(photos: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"a\xff.png", b"new\nline.png"):
        shutil.copy(photos / "grey.png", folder + b"/" + name)
    assert call("--image", tmp_path, "--parquet", tmp_path / "out").exit_code == 0
    names = [row["photo"].rpartition("/")[2] for row in rows(tmp_path / "out")]
    assert names == ["a\\xff.png", "new\nline.png"]


def test_parts_are_of_full_size_only_in_large_sets_and_cut_in_order() -> None:
    names = [f"{n:06d}.jpg" for n in range(70_000)]
    for count, size in ((1, 32), (400, 32), (4_000, 64), (70_000, 1024)):
        cut = [part.photos() for part in parts.cut(iter(names[:count]), {}).values()]
        assert {len(part) for part in cut[:-1]} <= {size}
        assert [name for part in cut for name in part] == names[:count]
    packed = sum(len(part.packed) for part in parts.cut(names, {}).values())
    assert packed < 4 * len(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", ""], "--image: is empty"),
        (["--csv", "t.csv"], "--parquet: is given together with --csv"),
        (["--json"], "is given together with --json"),
        (["--mask-only"], "is given together with --write"),
        (["--output", "x"], "is given together with --output"),
        (["--image", "none.jpg"], "none.jpg: does not exist"),
        (["--faces", "0"], "--faces: is '0'"),
        (["--model", "none.onnx"], "none.onnx: does not exist"),
        (["--device", "cuda:9"], "--device"),
    ],
)
def test_bad_input_is_one_line(
    photos: Path, tmp_path: Path, monkeypatch: Patch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(call("--image", photos, "--parquet", "out", *words), message)
    assert not list(tmp_path.rglob("part-*"))


def test_without_pyarrow_a_line_names_the_extra(photos: Path, monkeypatch: Patch) -> None:
    monkeypatch.delitem(sys.modules, "infer.parts")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = call("--image", photos, "--parquet", "out")
    fails(done, "--parquet: needs pyarrow, which is not installed", "pip install '.[parquet]'")


def test_pictures_load_no_pyarrow(photos: Path, tmp_path: Path) -> None:
    words = ("--image", photos / "grey.png", "--output", tmp_path / "a.png")
    assert "pyarrow" not in loaded("infer", *words)

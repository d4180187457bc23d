"""Photographs and their rows in object storage: the server of `s3`, which can misbehave."""

import shutil
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import common
import pytest
from common import Patch, fails
from PIL import Image
from s3 import KEY, SECRET, Proxy, objects

from infer.cli import main
from preprocess import storage
from preprocess.errors import InputError
from preprocess.storage import Remote

pytest.importorskip("pyarrow", reason="needs pip install '.[parquet]'")
from pyarrow import parquet  # noqa: E402

from infer import parts  # noqa: E402

call = partial(common.call, main)
ONE = ("--workers", 1)
THERE = "s3://faces/photos"


@pytest.fixture(scope="module")
def photos(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted((faces / common.IMAGES).iterdir())[:6]:
        shutil.copy(path, folder / path.name)
    (folder / "in").mkdir()
    Image.new("RGB", (99, 99)).save(folder / "in" / "a dark + odd name, 100%.png")
    (folder / "text.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def bucket(server: type[Proxy], photos: Path) -> str:
    """Return the URL of a copy of the photographs, beside something else."""
    for path in photos.rglob("*.*"):
        Remote(f"{THERE}/{path.relative_to(photos).as_posix()}").put(path.read_bytes())
    Remote(f"{THERE}/notes.txt").put(b"no photograph")
    Remote("s3://faces/photos-of-others/a.png").put(b"not meant")
    return THERE


def rows(out: Path | Remote, root: object) -> list[dict[str, Any]]:
    """Return the rows of all parts, with the names of photographs below `root`."""
    if isinstance(out, Remote):
        found = objects(out)
    else:
        found = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    tables = [parquet.read_table(BytesIO(data)) for _, data in sorted(found.items())]
    every = [row for table in tables for row in table.to_pylist()]
    for row in every:
        for name in ("photo", "problem"):
            row[name] = row[name] and row[name].removeprefix(f"{root}/")
    return every


@pytest.fixture(scope="module")
def here(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the rows of the photographs from disk."""
    out = tmp_path_factory.mktemp("here")
    assert "1 failed" in call("--image", photos, "--recursive", "--parquet", out, *ONE).stdout
    return rows(out, photos)


def test_rows_from_there_to_there_are_those_of_a_disk_and_hold_no_secret(
    bucket: str, here: list[dict[str, Any]], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(storage, "_PAGE", 3)  # the list comes in several answers
    out = Remote("s3://faces/rows")
    done = call("--image", f"{bucket}/", "--recursive", "--parquet", out, *ONE)
    assert (done.exit_code, done.stderr) == (2, "")
    assert rows(out, bucket) == here
    assert len({row["photo"] for row in here}) == 8
    assert not any(word in data for word in (KEY.encode(), SECRET.encode())
                   for data in objects(out).values())  # fmt: skip


def test_without_recursive_folders_of_the_folder_are_left_out(bucket: str, tmp_path: Path) -> None:
    assert "7 photos" in call("--image", bucket, "--parquet", tmp_path, *ONE).stdout


def test_worker_processes_do_the_missing_parts_there(
    bucket: str, here: list[dict[str, Any]], proxy: type[Proxy], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(parts, "_MOST", 3)
    out = Remote("s3://faces/parts")
    words = ("--image", bucket, "--recursive", "--parquet", out)
    call(*words, "--workers", 2)
    assert rows(out, bucket) == here
    (out / "part-000001.parquet").unlink()
    proxy.seen.clear()
    assert "8 photos" in call(*words, *ONE).stdout
    put = [request for request in proxy.seen if request.startswith("PUT")]
    assert ["part-000001.parquet" in request for request in put] == [True]
    assert rows(out, bucket) == here
    fails(call(*words, "--faces", "1"), "s3://faces/parts/part-000000.parquet: is of a run with")
    few = call("--image", bucket, "--parquet", out, *ONE, "--overwrite")
    assert "7 photos" in few.stdout
    assert len({row["photo"] for row in rows(out, bucket)}) == 7


@pytest.mark.parametrize("where", ["/photos", "/flaky"])
def test_an_error_now_and_then_changes_nothing(
    where: str, bucket: str, here: list[dict[str, Any]], proxy: type[Proxy], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(proxy, "where", where)
    proxy.faults = ("503", "cut", "")
    out = Remote("s3://faces/flaky")
    call("--image", bucket, "--recursive", "--parquet", out, *ONE, "--overwrite")
    proxy.faults = ()
    assert rows(out, bucket) == here


@pytest.mark.parametrize(("fault", "said"), [("403", "is refused"), ("500", "cannot be reached")])
def test_a_photo_that_is_never_handed_over_is_a_row_until_it_is(
    fault: str, said: str, bucket: str, here: list[dict[str, Any]], proxy: type[Proxy],
    tmp_path: Path, monkeypatch: Patch,
) -> None:  # fmt: skip
    monkeypatch.setattr(proxy, "where", "/photos/0.jpg")
    proxy.faults = (fault,)
    words = ("--image", bucket, "--recursive", "--parquet", tmp_path, *ONE)
    assert "8 photos, " in (done := call(*words)).stdout
    assert "2 failed" in done.stdout
    first = rows(tmp_path, bucket)[0]
    assert (first["photo"], first["face"]) == ("0.jpg", None)
    assert said in first["problem"]
    proxy.faults = ()
    assert "1 failed" in call(*words).stdout
    assert rows(tmp_path, bucket) == here


@pytest.mark.parametrize("fault", ["403", "500"])
def test_a_server_that_gives_nothing_ends_the_run_and_finished_parts_stay(
    fault: str, bucket: str, proxy: type[Proxy], tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(parts, "_MOST", 4)
    words = ("--image", bucket, "--recursive", "--parquet", tmp_path, *ONE)
    write = parts.write_part

    def then_nothing(*given: Any) -> parts.Count:
        done = write(*given)
        proxy.faults = (fault,)
        return done

    monkeypatch.setattr(proxy, "where", "")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_part", then_nothing)
        problem = f"cannot be reached (5 tries; status code: {fault})"
        fails(call(*words), "Error: s3://faces/photos", problem)
    assert [path.name for path in tmp_path.glob("part*")] == ["part-000000.parquet"]
    proxy.faults = ()
    assert "8 photos" in call(*words).stdout


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://faces/nothing", "s3://faces/nothing: holds no photograph"),
        ("s3://key:S3CRET@faces", "s3://...: is no URL that can be used"),
    ],
)
def test_what_holds_no_photo_is_one_line(
    url: str, message: str, server: type[Proxy], tmp_path: Path
) -> None:
    fails(call("--image", url, "--parquet", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_a_list_that_is_not_in_order_is_refused(monkeypatch: Patch) -> None:
    facts = {"size": 1, "last_modified": datetime.now()}
    page = [{"path": "b.jpg"} | facts, {"path": "a.jpg"} | facts]
    monkeypatch.setattr(Remote, "_call", lambda *_, **__: page)
    with pytest.raises(InputError, match="s3://faces: is not listed in order"):
        list(Remote("s3://faces").walk())

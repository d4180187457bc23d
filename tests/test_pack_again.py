"""Packing again: after a change, other settings, damage."""

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from common import IMAGES, MASKS, Patch, files, flip

import preprocess.pack
from preprocess.check import check
from preprocess.errors import InputError
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, PackReport, pack
from preprocess.shards import index_path, record_path

SETTINGS = PackSettings(size=32, samples_per_shard=8)


def run(source: Path, out: Path, settings: PackSettings = SETTINGS, **more: bool) -> PackReport:
    return pack(PackConfig(source, out, settings, workers=1, **more))


@pytest.fixture
def out(source: Path, tmp_path: Path) -> Path:
    """Return the shards of `source`, which the test may change and damage."""
    run(source, tmp_path / "out")
    return tmp_path / "out"


def stamps(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.tar")}


def blank(path: Path) -> bytes:
    """Overwrite a file with zeros, of the same size and an old date; return what it was."""
    whole = path.read_bytes()
    put(path, bytes(len(whole)))
    return whole


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))


def test_a_second_run_packs_nothing_and_touches_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = run(source, out)
    assert (first.packed, second.packed) == (40, 0)
    assert second.manifest == first.manifest == Manifest.load(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def another(path: Path) -> bytes:
    """Return another file of the folder, filled up to the size of this one."""
    size, own = path.stat().st_size, path.read_bytes()
    pattern = f"*{path.name[5:]}" if path.suffix == ".png" else "*.jpg"
    others = (other.read_bytes() for other in sorted(path.parent.glob(pattern)))
    return next(data for data in others if len(data) <= size and data != own).ljust(size, b"\0")


@pytest.mark.parametrize("what", [f"{IMAGES}/3.jpg", f"{MASKS}/0/00003_l_eye.png"])
@pytest.mark.parametrize("same_size", [True, False])
def test_only_the_shard_of_a_changed_file_is_packed_again(
    what: str, same_size: bool, source: Path, out: Path, tmp_path: Path
) -> None:
    before, times = files(out), stamps(out)
    (index,) = [path for path in out.rglob("*.idx") if " 00003.jpg " in path.read_text()]
    shard = index.with_suffix(".tar")
    (source / what).write_bytes(another(source / what) + (b"" if same_size else b"\0"))
    # The date tells where the size does not, and the other way round.
    os.utime(source / what, (time.time() + 9 if same_size else 1e9,) * 2)
    report = run(source, out, overwrite=not same_size)
    assert report.packed == 8
    assert report.manifest.dropped == ()
    assert {path for path, at in stamps(out).items() if at != times[path]} == {shard}
    changed = {out / name for name, data in files(out).items() if data != before[name]}
    assert changed - {index_path(shard)} == {shard, record_path(shard), out / "manifest.json"}
    run(source, tmp_path / "clean")
    assert files(out) == files(tmp_path / "clean")
    if not same_size:
        assert run(source, out).packed == 0


def test_while_packing_there_is_no_manifest(source: Path, out: Path, monkeypatch: Patch) -> None:
    def stop(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(preprocess.pack, "pack_sample", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        run(source, out, replace(SETTINGS, quality=80), overwrite=True)
    with pytest.raises(InputError, match=r"manifest\.json: does not exist"):
        Manifest.load(out)


def test_other_photographs_or_settings_need_leave(source: Path, out: Path) -> None:
    before, other = files(out), replace(SETTINGS, quality=80)
    with pytest.raises(InputError, match=r"manifest\.json: describes a pack of other.*--update"):
        run(source, out, other)
    (source / IMAGES / "17.jpg").unlink()
    with pytest.raises(InputError, match="other photographs or other settings"):
        run(source, out)
    assert files(out) == before
    assert run(source, out, other, update=True).packed == 39
    assert Manifest.load(out).settings.quality == 80


def test_shards_that_no_manifest_lists_are_removed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out, replace(SETTINGS, samples_per_shard=4))
    (out / "train" / "notes.txt").write_text("mine")
    (out / "train" / ".eyes-000000.tar.4242.tmp").write_bytes(b"left by a kill")
    for number in range(8, 40, 10):  # all of val
        for path in (*source.rglob(f"{number}.jpg"), *source.rglob(f"{number:05d}_*")):
            path.unlink()
    report = run(source, out, overwrite=True)
    assert report.manifest.splits["val"].samples == 0
    assert not list((out / "val").glob("*"))
    assert (out / "train" / "notes.txt").exists()
    run(source, tmp_path / "clean")
    assert files(out) == files(tmp_path / "clean")


def test_what_is_missing_or_cut_is_packed_again(source: Path, out: Path) -> None:
    before, train = files(out), out / "train"
    (train / "eyes-000000.tar").unlink()
    (train / "eyes-000001.idx").unlink()
    with (train / "eyes-000002.tar").open("r+b") as file:
        file.truncate(5000)
    assert run(source, out).packed == 24
    assert files(out) == before
    assert not check(out).faults
    # A kill can also fall before the record, or in the middle of it.
    (out / "manifest.json").unlink()
    (train / "eyes-000000.json").unlink()
    cut = train / "eyes-000002.json"
    cut.write_bytes(cut.read_bytes()[:-30])
    assert run(source, out).packed == 16
    assert files(out) == before


def test_overwrite_mends_damage_that_size_and_date_do_not_show(source: Path, out: Path) -> None:
    before = files(out)
    flip(out / "train" / "eyes-000001.tar", -600)
    flip(out / "train" / "eyes-000002.idx", -9)
    (out / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read.*--overwrite"):
        run(source, out)
    assert run(source, out, overwrite=True).packed == 16
    assert files(out) == before


def test_what_could_not_be_read_is_tried_again(source: Path, tmp_path: Path) -> None:
    """A shard of which nothing could be read in every run, a sample of a shard by --overwrite."""
    out, val = tmp_path / "out", [source / IMAGES / f"{number}.jpg" for number in range(8, 40, 10)]
    whole = {path: blank(path) for path in (*val, source / IMAGES / "3.jpg")}
    assert len(run(source, out).manifest.dropped) == 5
    for path, data in whole.items():
        put(path, data)  # as a medium that is mounted again would
    report = run(source, out)
    assert (report.packed, [row.key for row in report.manifest.dropped]) == (4, ["00003"])
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert run(source, out, update=True).packed == 0
    assert (out / "manifest.json").stat().st_mtime_ns == stamp, "make would train again"
    assert run(source, out, overwrite=True).manifest.dropped == ()


def test_what_the_disk_did_not_hand_over_is_tried_again(
    source: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    run(source, tmp_path / "undisturbed")
    out, read = tmp_path / "out", Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "3.jpg":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        (row,) = run(source, out).manifest.dropped
    assert row.reason == f"{source / IMAGES / '3.jpg'}: cannot be read (Input/output error)"
    report = run(source, out)
    assert (report.packed, report.manifest.dropped) == (8, ())
    assert files(out) == files(tmp_path / "undisturbed")


def test_so_is_what_was_not_handed_over_of_a_zip(
    source: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", source))
    out = tmp_path / "out"
    state, calls = os.fstat, iter(range(1000))

    def failing(file: int) -> os.stat_result:
        if next(calls) == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return state(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", failing)
        assert run(archive, out).packed == 39
    report = run(archive, out)
    assert (report.packed, report.manifest.samples, report.manifest.dropped) == (8, 40, ())

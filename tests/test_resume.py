"""Packing again: after a kill, a change, other settings, damage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import preprocess.pack
from preprocess.check import check
from preprocess.errors import InputError
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, PackReport, pack
from preprocess.shards import index_path, record_path

IMAGES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno/0"
SETTINGS = PackSettings(size=32, samples_per_shard=8)


@pytest.fixture
def source(small: Path, tmp_path: Path) -> Path:
    """Return a copy of the faces that the test may change."""
    return Path(shutil.copytree(small, tmp_path / "source"))


def run(
    source: Path,
    out: Path,
    settings: PackSettings = SETTINGS,
    overwrite: bool = False,
    update: bool = False,
) -> PackReport:
    return pack(PackConfig(source, out, settings, workers=1, overwrite=overwrite, update=update))


def files(root: Path) -> dict[str, bytes]:
    """Return all that a pack is made of, by relative path."""
    kinds = (".tar", ".idx", ".tmp", ".json")
    found = [path for path in root.rglob("*") if path.suffix in kinds]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def stamps(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.tar")}


SLOWLY = """
import sys, time
import preprocess.pack as packing
from pathlib import Path
from preprocess.manifest import PackSettings
real = packing.pack_sample
def slow(*args):
    time.sleep(0.03)
    return real(*args)
packing.pack_sample = slow
settings = PackSettings(size=32, samples_per_shard=4)
packing.pack(packing.PackConfig(Path(sys.argv[1]), Path(sys.argv[2]), settings, workers=1))
"""


def killed_after(shards: int, source: Path, out: Path) -> None:
    """Pack slowly in another process and end it by SIGKILL in the middle of a shard."""
    with subprocess.Popen([sys.executable, "-c", SLOWLY, str(source), str(out)]) as process:
        until = time.monotonic() + 30
        while len(list(out.rglob("eyes-*.json"))) < shards:
            assert time.monotonic() < until, "packed nothing in 30 seconds"
            time.sleep(0.005)
        while not list(out.rglob(".*.tmp")):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_run_continues_without_repacking(small: Path, tmp_path: Path) -> None:
    settings, out = PackSettings(size=32, samples_per_shard=4), tmp_path / "out"
    killed_after(3, small, out)
    assert not (out / "manifest.json").exists()
    assert list(out.rglob(".*.tmp"))
    finished = {path.with_suffix(".tar") for path in out.rglob("eyes-*.json")}
    times = stamps(out)
    assert 3 <= len(finished) <= 5
    report = run(small, out, settings)
    assert report.packed == 40 - 4 * len(finished)
    assert all(stamps(out)[path] == times[path] for path in finished)
    run(small, tmp_path / "clean", settings)
    assert files(out) == files(tmp_path / "clean")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_shard_that_a_kill_left_without_index_or_record_is_packed_again(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(source, out)
    before = files(out)
    (out / "manifest.json").unlink()
    (out / "train" / "eyes-000001.idx").unlink()
    (out / "train" / "eyes-000000.json").unlink()
    cut = out / "train" / "eyes-000002.json"
    cut.write_bytes(cut.read_bytes()[:-30])
    assert run(source, out).packed == 24
    assert files(out) == before


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


WAITS = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from preprocess.pack import _start_worker
if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_start_worker) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    command = [sys.executable, str(tmp_path / "waits.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert running(worker)
        parent.kill()
        until = time.monotonic() + 20
        while running(worker) and time.monotonic() < until:
            time.sleep(0.02)
        assert not running(worker)


def test_a_second_run_packs_nothing_and_touches_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = run(source, out)
    assert (first.packed, second.packed) == (40, 0)
    assert second.manifest == first.manifest == Manifest.load(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def shard_of(out: Path, key: str) -> Path:
    (index,) = [path for path in out.rglob("*.idx") if f" {key}.jpg " in path.read_text()]
    return index.with_suffix(".tar")


def another(path: Path) -> bytes:
    """Return another file of the folder, filled up to the size of this one."""
    size, own = path.stat().st_size, path.read_bytes()
    pattern = f"*{path.name[5:]}" if path.suffix == ".png" else "*.jpg"
    for other in sorted(path.parent.glob(pattern)):
        if other.stat().st_size <= size and other.read_bytes() != own:
            return other.read_bytes().ljust(size, b"\0")
    raise AssertionError("every other file is larger")


@pytest.mark.parametrize("what", [f"{IMAGES}/3.jpg", f"{MASKS}/00003_l_eye.png"])
@pytest.mark.parametrize("same_size", [True, False])
def test_only_the_shard_of_a_changed_file_is_packed_again(
    what: str, same_size: bool, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(source, out)
    before, times, shard = files(out), stamps(out), shard_of(out, "00003")
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


def test_while_packing_there_is_no_manifest(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(source, out)

    def stop(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(preprocess.pack, "pack_sample", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        run(source, out, replace(SETTINGS, quality=80), overwrite=True)
    with pytest.raises(InputError, match=r"manifest\.json: does not exist"):
        Manifest.load(out)


def test_other_photographs_or_settings_need_leave(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    before = files(out)
    other = replace(SETTINGS, quality=80)
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
    run(source, out, overwrite=True)
    assert (out / "train" / "notes.txt").exists()
    run(source, tmp_path / "clean")
    assert files(out) == files(tmp_path / "clean")


def test_a_split_that_went_away_leaves_manifest_and_folder(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    for number in range(8, 40, 10):  # all of it: the other shards stay as they are
        (source / IMAGES / f"{number}.jpg").unlink()
        for mask in (source / MASKS).glob(f"{number:05d}_*"):
            mask.unlink()
    report = run(source, out, overwrite=True)
    assert (report.packed, report.manifest.splits["val"].samples) == (0, 0)
    assert Manifest.load(out) == report.manifest
    assert not list((out / "val").glob("*"))


@pytest.mark.parametrize("damaged", ["eyes-000001.tar", "eyes-000001.idx"])
def test_overwrite_mends_damage_that_size_and_date_do_not_show(
    damaged: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(source, out)
    before, path = files(out), out / "train" / damaged
    data = bytearray(path.read_bytes())
    data[-600 if damaged.endswith("tar") else -9] ^= 1
    path.write_bytes(data)
    assert run(source, out, overwrite=True).packed == 8
    assert files(out) == before


def test_overwrite_mends_a_damaged_manifest(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    before = files(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read.*--overwrite"):
        run(source, out)
    assert run(source, out, overwrite=True).packed == 0
    assert files(out) == before


def test_missing_shards_and_indexes_are_packed_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    before = files(out)
    (out / "train" / "eyes-000000.tar").unlink()
    (out / "train" / "eyes-000001.idx").unlink()
    with (out / "train" / "eyes-000002.tar").open("r+b") as file:
        file.truncate(5000)
    assert run(source, out).packed == 24
    assert files(out) == before
    assert not check(out).faults


def test_a_shard_of_which_nothing_could_be_read_is_tried_again(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number in range(8, 40, 10):  # the four photographs of the validation split
        path = source / IMAGES / f"{number}.jpg"
        path.with_suffix(".bak").write_bytes(path.read_bytes())
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, (1e9, 1e9))
    assert len(run(source, out).manifest.dropped) == 4
    for path in (source / IMAGES).glob("*.bak"):
        path.replace(path.with_suffix(".jpg"))
        os.utime(path.with_suffix(".jpg"), (1e9, 1e9))  # as a medium that is mounted again would
    report = run(source, out)
    assert (report.packed, report.manifest.dropped, report.manifest.samples) == (4, (), 40)


def test_overwrite_tries_dropped_samples_again(source: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", source / IMAGES / "3.jpg"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    os.utime(path, (1e9, 1e9))
    assert [row.key for row in run(source, out).manifest.dropped] == ["00003"]
    path.write_bytes(whole)
    os.utime(path, (1e9, 1e9))
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert run(source, out, update=True).packed == 0
    assert (out / "manifest.json").stat().st_mtime_ns == stamp, "make would train again"
    assert run(source, out, overwrite=True).manifest.dropped == ()


def test_out_that_is_a_file_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match=r"out: is a file\. Give a folder"):
        run(small, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"

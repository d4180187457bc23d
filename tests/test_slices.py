"""Packing by slices: the same bytes, at the same time, after kills, and no two on one shard."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import common
import pytest
from common import IMAGES, Patch, fails, files

import preprocess.pack
from preprocess.celebamask import Plan
from preprocess.cli import main
from preprocess.files import locked
from preprocess.manifest import PackSettings
from preprocess.plan import PlannedShard

call = partial(common.call, main)
WORDS = ("--size", 32, "--samples-per-shard", 4, "--workers", 1, "--no-tune")
ONLY_FLOCK = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no shared locks here")

SLOWLY = """
import time
import preprocess.pack as packing
from preprocess.cli import main
real = packing.pack_sample
packing.pack_sample = lambda *args: time.sleep(0.03) or real(*args)
main()
"""


@pytest.fixture(scope="module")
def undivided(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undivided")
    assert call("--data", small, "--out", out, *WORDS).exit_code == 0
    return files(out)


def start(source: Path, out: Path, part: str) -> subprocess.Popen[str]:
    """Pack a slice slowly, in another process; return once it writes a shard."""
    words = ["--data", source, "--out", out, *WORDS, "--slice", part]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(out.rglob(f".*.{process.pid}.tmp")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until, "wrote nothing in a minute"
        time.sleep(0.002)
    return process


def packed_now(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}


def test_slices_make_the_pack_of_an_undivided_run(
    small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    words, shards = ("--data", small, "--out", tmp_path, *WORDS), 0
    for part in ("3/3", "1/3", "2/3"):
        done = call(*words, "--slice", part)
        assert done.exit_code == 0, done.output
        shards += int(done.stdout.partition("is done, ")[2].split()[0])
        assert not list(tmp_path.glob("[!.]*.*")), "neither manifest nor preview before the end"
    assert shards == len(packed_now(tmp_path)) == len([n for n in undivided if n.endswith("tar")])
    before = packed_now(tmp_path)
    last = call(*words)
    assert "up to date, nothing to pack" in last.output
    assert packed_now(tmp_path) == before
    assert files(tmp_path) == undivided
    assert (tmp_path / "preview.png").exists()
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


def test_the_end_packs_what_a_missing_slice_left_and_redraws_the_preview(
    small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    words = ("--data", small, "--out", tmp_path, *WORDS)
    assert call(*words, "--size", 48).exit_code == 0
    old = (tmp_path / "preview.png").read_bytes()
    fails(call(*words, "--slice", "1/2"), "manifest.json: describes a pack of other photographs")
    assert call(*words, "--slice", "1/2", "--update").exit_code == 0
    assert not (tmp_path / "manifest.json").exists(), "what it listed is gone"
    assert "packed" in call(*words).output
    assert files(tmp_path) == undivided
    assert (tmp_path / "preview.png").read_bytes() != old


@ONLY_FLOCK
def test_a_killed_slice_goes_on_and_leaves_the_others_alone(
    small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    words = ("--data", small, "--out", tmp_path, *WORDS)
    killed, other = start(small, tmp_path, "1/2"), start(small, tmp_path, "2/2")
    killed.kill()
    killed.communicate()
    os.kill(other.pid, signal.SIGSTOP)  # so that it is in the middle of a shard
    try:
        (left,) = tmp_path.rglob(f".*.{killed.pid}.tmp")
        kept = set(tmp_path.rglob(f".*.{other.pid}.tmp"))
        done = call(*words, "--slice", "1/2")
        assert done.exit_code == 0, done.output
        assert not left.exists()
        assert set(tmp_path.rglob(".*.tmp")) == kept
    finally:
        os.kill(other.pid, signal.SIGCONT)
        _, problems = other.communicate(timeout=60)
    assert other.returncode == 0, problems
    assert "up to date" in call(*words).output
    assert files(tmp_path) == undivided


@ONLY_FLOCK
def test_what_would_write_the_same_shards_is_refused(small: Path, tmp_path: Path) -> None:
    words, text = ("--data", small, "--out", tmp_path, *WORDS), f"{tmp_path}: is in use by another"
    running = start(small, tmp_path, "1/2")
    os.kill(running.pid, signal.SIGSTOP)
    try:
        for more in ((), ("--slice", "1/2"), ("--slice", "3/12")):
            fails(call(*words, *more), text)
        assert call(*words, "--slice", "2/2").exit_code == 0
    finally:
        os.kill(running.pid, signal.SIGCONT)
        running.communicate(timeout=60)
    assert running.returncode == 0
    with locked(tmp_path):
        fails(call(*words, "--slice", "2/2"), text)
    assert call(*words, "--slice", "3/12").exit_code == 0, "the locks have ended with their owners"


def test_a_photograph_that_vanishes_does_not_stop_its_slice(
    source: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    planned = preprocess.pack.plan_shards

    def and_then_gone(plan: Plan, settings: PackSettings) -> list[PlannedShard]:
        (source / IMAGES / "7.jpg").unlink()
        return planned(plan, settings)

    monkeypatch.setattr(preprocess.pack, "plan_shards", and_then_gone)
    done = call("--data", source, "--out", tmp_path / "out", *WORDS, "--slice", "1/1")
    assert "(39 samples now)" in done.output
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("eyes-*.json")]
    (row,) = [row for record in records for row in record["dropped"]]
    assert row["key"] == "00007"
    assert "cannot be read (No such file" in row["reason"]


@pytest.mark.parametrize("part", ["0/4", "5/4", "x", "", "1", "1/", "/4", "-1/4", "1/0", "1/4/2"])
def test_wrong_slices_are_one_line(part: str, small: Path, tmp_path: Path) -> None:
    done = call("--data", small, "--out", tmp_path / "out", *WORDS, "--slice", part)
    fails(done, "--slice: is ", "Expected 1/N to N/N, for example 3/16")
    assert not (tmp_path / "out").exists()


def test_more_slices_than_shards_leave_some_empty(small: Path, tmp_path: Path) -> None:
    done = call("--data", small, "--out", tmp_path, *WORDS, "--slice", "999/1000")
    assert "slice 999/1000 is done, 0 shards" in done.output
    assert not packed_now(tmp_path)

"""Packing on Ray: the same bytes, after deaths of workers too, and every end of a run."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import common
import pytest
from common import ROOT, Patch, fails, files
from harm import ON_RAY, VICTIM, WORDS, Harm, call, processes

from preprocess.errors import InputError

ray = pytest.importorskip("ray", reason="needs pip install '.[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


def test_the_bytes_are_those_by_processes(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    done = call("--data", small, "--out", tmp_path / "out", *ON_RAY)
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "out") == undivided


def test_of_a_killed_worker_only_the_running_shard_is_done_again(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes], harm: Harm
) -> None:
    harm(times=1)
    done = call("--data", small, "--out", tmp_path / "out", *ON_RAY)
    assert done.exit_code == 0, done.output
    shards = [name for name in undivided if name.endswith(".tar")]
    assert harm.starts() == Counter([*shards, VICTIM])
    assert files(tmp_path / "out") == {**undivided, **files(tmp_path / "out", ".tmp")}


def test_a_shard_whose_worker_dies_three_times_is_reported_and_the_rest_is_done(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes], harm: Harm
) -> None:
    out = tmp_path / "out"
    harm(times=3)
    died = f"Error: {VICTIM} (WorkerCrashedError): a worker died 3 times. All else is done"
    fails(call("--data", small, "--out", out, *ON_RAY), died)
    shards = {name for name in undivided if name.endswith(".tar")}
    assert harm.starts()[VICTIM] == 3
    assert set(files(out, ".tar")) == shards - {VICTIM}
    done = call("--data", small, "--out", out, *ON_RAY)
    assert "packed 4 in" in done.output
    assert files(out) == undivided


@pytest.mark.parametrize(
    "error",
    [InputError("FACES", "has vanished", "Put it back"), OSError(28, "No space left", VICTIM)],
)
def test_errors_end_a_run_as_they_do_by_processes(
    error: Exception, cluster: Any, small: Path, tmp_path: Path, harm: Harm
) -> None:
    harm(times=2, error=error)
    words = ("--data", small, "--out", tmp_path / "out")
    here, there = call(*words, *WORDS, "--workers", 1), call(*words, *ON_RAY)
    fails(here, ("FACES: has vanished", f"{VICTIM}: No space")[isinstance(error, OSError)])
    fails(there)
    assert there.stderr.splitlines()[-1] == here.stderr.splitlines()[-1]
    assert harm.starts()[VICTIM] == 2, "neither is tried again"
    assert not list((tmp_path / "out").rglob("*.tmp")), "the other worker has tidied up"


def test_without_the_extra_a_line_names_it(small: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = call("--data", small, "--out", tmp_path, *ON_RAY)
    fails(done, "--engine: is ray, which is not installed", "pip install '.[ray]'")


def test_a_running_cluster_is_used_from_any_folder_and_says_nothing(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    address = ray.get_runtime_context().gcs_address
    data = os.path.relpath(small, tmp_path)
    words = ("--data", data, "--out", "out", *ON_RAY, "--address", address)
    done = common.python("-m", "preprocess", *words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1, "process tuning"
    assert "\x1b" not in done.stdout
    assert files(tmp_path / "out") == undivided
    assert [node["Alive"] for node in ray.nodes()] == [True], "it is not ours to end"


def test_an_address_is_for_ray(small: Path, tmp_path: Path) -> None:
    done = call("--data", small, "--out", tmp_path, *WORDS, "--address", "auto")
    fails(done, "--address: is auto. Expected --engine ray too")


SLOWLY = """
import time
import preprocess.pack as packing
from preprocess.cli import main
def pack_shard(source, out, settings, planned, **more):
    import preprocess.pack as packing
    time.sleep(0.5)
    return packing.pack_shard(source, out, settings, planned, **more)
packing.pack_shard = pack_shard
main()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_process(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", SLOWLY, "--data", small, "--out", out, *ON_RAY, "--workers", 2]
    with (tmp_path / "said").open("w+") as said:
        run = subprocess.Popen([*map(str, words)], stdout=said, stderr=said, cwd=ROOT,
                               start_new_session=True)  # fmt: skip
        until = time.monotonic() + 120
        while not list(out.rglob("eyes-*.json")):
            assert run.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < until
            time.sleep(0.01)
        assert any("raylet" in name for name in processes(run.pid))
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        assert run.wait(30) == 130, (tmp_path / "said").read_text()
    assert not processes(run.pid)
    tuning, interrupted = (tmp_path / "said").read_text().splitlines()
    assert tuning.startswith("process tuning")
    assert interrupted == "Interrupted. What was finished is kept."
    kept = files(out)
    assert 3 <= len(kept) < len(undivided)
    assert kept.items() <= undivided.items(), "and nothing half written"

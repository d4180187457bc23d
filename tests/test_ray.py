"""Packing on Ray: the same bytes, after deaths of workers too, and every end of a run.

One cluster serves all tests but those of how a cluster is started and found. What runs in its
workers stands inside of functions: those are sent as they are, and this module is not imported.
"""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import common
import pytest
from common import ROOT, Patch, fails, files

import preprocess.pack
from preprocess import engine
from preprocess.cli import main
from preprocess.engine import on_ray
from preprocess.errors import InputError

ray = pytest.importorskip("ray", reason="needs pip install '.[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

call = partial(common.call, main)
WORDS = ("--size", 32, "--samples-per-shard", 4, "--no-tune")
ON_RAY = (*WORDS, "--engine", "ray")
VICTIM = "train/eyes-000003.tar"
QUIET = {"RAY_AUTH_TOKEN": "1" * 64, "RAY_USAGE_STATS_ENABLED": "0"}  # else it is kept at home


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in QUIET.items():
            patch.setenv(variable, value)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
        yield ray
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            ray.shutdown()  # drops its processes without a last look at them
            gc.collect()


@pytest.fixture
def nobody(monkeypatch: Patch) -> None:
    """Let the command look for a cluster, although this process has one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(engine, "_ANSWER_SECONDS", 4.0)


@pytest.fixture(scope="module")
def undivided(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the pack by two processes."""
    out = tmp_path_factory.mktemp("processes")
    assert call("--data", small, "--out", out, *WORDS, "--workers", 2).exit_code == 0
    return files(out)


class Harm:
    """Harms the packing of VICTIM after its first sample, so many times; counts all starts."""

    def __init__(self, place: Path, patch: Patch) -> None:
        self.place, self.patch = place, patch

    def starts(self) -> Counter[str]:
        return Counter(path.name.split()[0].replace("+", "/") for path in self.place.iterdir())

    def __call__(self, times: int, error: Exception | None = None) -> None:
        place = self.place

        def pack_shard(source: Path, out: Path, settings: Any, planned: Any, **more: Any) -> Any:
            import preprocess.pack as packing

            name = planned.name.replace("/", "+")
            (place / f"{name} {time.time_ns()}").touch()
            real, first = packing.pack_sample, planned.samples[0]

            def harmed(source: Path, sample: Any, *args: Any) -> Any:
                if sample is first:
                    return real(source, sample, *args)
                if error:
                    raise error
                return os.kill(os.getpid(), signal.SIGKILL)

            if planned.name == VICTIM and len(list(place.glob(f"{name} *"))) <= times:
                packing.pack_sample = harmed
            try:
                function = getattr(packing, "unharmed", packing.pack_shard)
                return function(source, out, settings, planned, **more)
            finally:
                packing.pack_sample = real

        unharmed = preprocess.pack.pack_shard  # for a run in this process
        self.patch.setattr(preprocess.pack, "unharmed", unharmed, raising=False)
        self.patch.setattr(preprocess.pack, "pack_shard", pack_shard)


@pytest.fixture
def harm(tmp_path: Path, monkeypatch: Patch) -> Harm:
    (tmp_path / "starts").mkdir()
    return Harm(tmp_path / "starts", monkeypatch)


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


OUT_OF_MEMORY = """
import sys, time
from pathlib import Path
import ray
from preprocess.engine import on_ray
free, most, place = *map(int, sys.argv[1:3]), Path(sys.argv[3])
limit = 1 - (free - 1_500_000_000) / most
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         _system_config={"memory_usage_threshold": limit, "memory_monitor_refresh_ms": 100})
def job(number):
    (place / f"{number} {time.time_ns()}").touch()
    if number == 2 and len(list(place.glob("2 *"))) == 1:
        for _ in range(35):
            kept.append(b"1" * 100_000_000)
            time.sleep(0.05)
        time.sleep(60)
    return number
kept = []
print(*sorted(on_ray(job, range(6))))
"""


def test_of_a_worker_out_of_memory_only_the_task_is_done_again(tmp_path: Path) -> None:
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    except FileNotFoundError:
        pytest.skip("needs /proc")
    memory = {name: int(value) * 1024 for name, value, *_ in lines}
    own = Path("/sys/fs/cgroup/memory.max")
    if own.exists() and own.read_text().strip() != "max":
        pytest.skip("the free memory is not what /proc says")
    if memory["MemAvailable:"] < 4_000_000_000:
        pytest.skip("needs 4 GB of free memory")
    words = (memory["MemAvailable:"], memory["MemTotal:"], tmp_path)
    done = common.python("-c", OUT_OF_MEMORY, *words, cwd=ROOT, env=QUIET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 1 2 3 4 5"
    starts = Counter(path.name.split()[0] for path in tmp_path.iterdir())
    assert starts == Counter("0122345")


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


class Counted(list[int]):
    """Tasks that count how many of them were asked for."""

    asked = 0

    def __iter__(self) -> Iterator[int]:
        for task in super().__iter__():
            self.asked += 1
            yield task


@pytest.mark.parametrize(("workers", "most"), [(None, 4), (1, 1)])
def test_no_more_tasks_are_handed_out_than_twice_the_cpus(
    workers: int | None, most: int, cluster: Any
) -> None:
    tasks, results = Counted(range(100)), []
    for result in on_ray(lambda task: task * task, tasks, workers):
        results.append(result)
        assert tasks.asked - len(results) < most
    assert sorted(results) == [task * task for task in range(100)]


def test_workers_are_tuned(cluster: Any) -> None:
    def job(_: int) -> tuple[int, int]:
        import resource

        import cv2

        for _ in range(2):  # the second time, no page is new
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            bytearray(50_000_000)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return cv2.getNumThreads(), faults

    ((threads, faults),) = on_ray(job, [0])
    assert threads == 1
    assert faults < 100


def test_a_worker_that_does_not_see_the_folders_says_so(cluster: Any, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    with pytest.raises(InputError, match=f"{lost}: does not exist on .*All nodes must share it"):
        list(on_ray(str, [1], shared=[tmp_path, lost]))


def test_nodes_that_lack_a_package_are_one_line(
    cluster: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "lonely.py").write_text("def job(task): return task\n")
    monkeypatch.syspath_prepend(tmp_path)  # the workers have started without it
    job = importlib.import_module("lonely").job
    with pytest.raises(InputError, match="a node lacks a module .*No module named 'lonely'"):
        list(on_ray(job, [1]))


def test_without_the_extra_a_line_names_it(small: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = call("--data", small, "--out", tmp_path, *ON_RAY)
    fails(done, "--engine: is ray, which is not installed", "pip install '.[ray]'")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "silent", "nonsense", "ray://127.0.0.1:9"])
def test_an_address_where_no_cluster_answers_is_one_line(
    address: str, nobody: None, small: Path, tmp_path: Path
) -> None:
    problem = f"--address: is '{address}'. Expected HOST:PORT or auto"
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "silent":
            address = f"127.0.0.1:{server.getsockname()[1]}"
        if address.startswith("127"):
            problem = f"{address}: no Ray cluster answers in 4 seconds"
        words = ("--data", small, "--out", tmp_path, *ON_RAY)
        fails(call(*words, "--address", address), problem)


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


DIES = """
import os, pathlib, sys
from preprocess.engine import on_ray
address, once = sys.argv[1], pathlib.Path(sys.argv[2])
def job(number):
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), 9)
    return number
print(*sorted(on_ray(job, range(3), address=address)))
"""


def test_of_a_worker_that_dies_ray_says_nothing(cluster: Any, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    done = common.python("-c", DIES, address, tmp_path / "once", cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1 2\n", "")


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


def processes(session: int) -> list[str]:
    """Return the processes of a session, and what each is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, fields = path.read_text().rsplit(")", 1)
            if int(fields.split()[3]) == session and fields.split()[0] != "Z":
                found.append(name)
    return found


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

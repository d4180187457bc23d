"""Tasks on Ray: how many at a time, what becomes of those that die, and how a cluster is found."""

import importlib
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import pytest
from common import ROOT, Patch, fails
from harm import ON_RAY, QUIET, call

from preprocess.engine import on_ray
from preprocess.errors import InputError

ray = pytest.importorskip("ray", reason="needs pip install '.[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


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

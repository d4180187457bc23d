"""Several processes: one that dies or stops ends the others, with a message."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from common import python, tiny

from preprocess.errors import InputError
from train.config import TrainConfig
from train.distributed import Processes
from train.run_folder import HISTORY_FILE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")

RUN = """
import pickle, sys, time
from datetime import timedelta
import train.distributed
from preprocess.command import reports_errors
from train.data import Loader
from train.loop import fit
patience, slower = map(float, sys.argv[1:])
train.distributed._PATIENCE = timedelta(seconds=patience)
filled = Loader._filled
def fill(self, place):
    time.sleep(slower if self.split.name == "train" else 0)
    return filled(self, place)
Loader._filled = fill
reports_errors(fit)(pickle.load(sys.stdin.buffer))
"""


def started(
    config: TrainConfig, rank: int, port: int, patience: float, slower: float = 0
) -> subprocess.Popen[bytes]:
    where = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
             "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(patience), str(slower)],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {name: str(value) for name, value in where.items()},
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(pickle.dumps(config))
    process.stdin.close()
    return process


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_a_process_whose_disk_is_slower_is_waited_for(pack_root: Path, tmp_path: Path) -> None:
    config, port = tiny(pack_root, tmp_path, epochs=2, batch=4), free_port()
    first = started(config, 0, port, patience=8)
    with first, started(config, 1, port, patience=8, slower=16) as second:
        assert first.stderr
        said = first.stderr.read().decode()
        assert (first.wait(120), second.wait(120)) == (0, 0), said
    assert (tmp_path / HISTORY_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_dies_or_stops_ends_the_other(
    pack_root: Path, tmp_path: Path, end: str
) -> None:
    config, port = tiny(pack_root, tmp_path, epochs=10_000, batch=4), free_port()
    first, second = (started(config, rank, port, patience=8) for rank in (0, 1))
    with first, second, ExitStack() as stack:
        stack.callback(first.kill)
        stack.callback(second.kill)
        until = time.monotonic() + 120
        while not (tmp_path / HISTORY_FILE).exists():
            assert time.monotonic() < until
            assert first.poll() is second.poll() is None
            time.sleep(0.1)
        second.send_signal(signal.Signals[end])
        assert first.stderr
        said = first.stderr.read().decode()
        assert first.wait(60) == 2, said
    line = next(line for line in said.splitlines() if line.startswith("Error: "))
    assert "process 0: another of the 2 processes has ended or no longer answers" in line
    assert "--resume" in line
    assert "Traceback" not in said


def test_a_process_without_a_sample_is_refused_at_the_start() -> None:
    Processes(0, 2).check(2, "val")
    with pytest.raises(InputError, match=r"split 'val': has 1 samples for 2 processes"):
        Processes(1, 2).check(1, "val")


LATE = """
import os, signal, sys, time
from concurrent.futures.process import _ExecutorManagerThread as Manager
from preprocess import runtime
end = Manager.join_executor_internals
def killed(manager):
    time.sleep(0.5)  # both workers wait for a task by now, one of them with the lock
    os.kill([*manager.processes][int(sys.argv[1])], signal.SIGKILL)
    end(manager)
Manager.join_executor_internals = killed
print(sorted(runtime.in_processes(abs, [-3, -2, -1], 2)))
"""


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_that_is_killed_at_the_very_end_keeps_nobody_waiting(number: int) -> None:
    done = python("-c", LATE, number, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[1, 2, 3]\n"), done.stderr

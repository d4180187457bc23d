"""Killed anywhere, packing and training go on, to the same bytes and the same weights.

EYES_KILLS sets how many kills there are (`make faults`); EYES_SEED, which and when.
"""

import errno
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from common import assert_same_run, assert_whole, call
from tqdm import tqdm

import train.config
from preprocess.celebamask import SPLITS
from preprocess.cli import main
from preprocess.files import file_sha256, unfinished
from train.checkpoint import MODEL_FILE, epoch_files
from train.run_folder import HISTORY_FILE, HISTORY_PLOT, SETTINGS_FILE

SEED = os.environ.get("EYES_SEED", "0")
ROUNDS = range(int(os.environ.get("EYES_KILLS", "7")) // 7)  # 4 kills of packing, 3 of training
# Exit code and last words of a run that is killed; the last way is one for packing only.
ENDS = {
    "SIGKILL": (-signal.SIGKILL, None),
    "SIGTERM": (-signal.SIGTERM, None),
    "SIGINT": (130, "Interrupted. What was finished is kept."),
    "worker": (2, "Error: --workers: a worker process was killed. What is finished is kept"),
}
VARIES = {MODEL_FILE, SETTINGS_FILE, HISTORY_FILE, HISTORY_PLOT}  # paths, seconds

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@dataclass(frozen=True)
class Run:
    """A process that leads a session of its own."""

    pid: int
    code: Callable[[], int | None]  # its exit code; None while it runs
    log: Path  # its stderr


@dataclass(frozen=True)
class Program:
    """Packing or training."""

    package: str
    words: str  # the last one names the folder, which follows
    whole: Path  # what an undisturbed run leaves
    older: Path  # a pack of other settings
    seconds: float = math.inf  # that the undisturbed run takes
    count: int = 0  # of the files that it begins

    def start(self, out: Path, log: Path) -> Run:
        words = [*self.words.split(), str(out)]
        if self.package == "train":
            return forked(self.package, words, log)
        command = [sys.executable, "-m", self.package, "--workers", "2", *words]
        with log.open("w") as said:
            run = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        return Run(run.pid, run.poll, log)

    def kept(self, out: Path) -> dict[Path, int]:
        """Return what no later run may write again, with its time: shards and checkpoints."""
        records = {path: self.whole / path.relative_to(out) for path in out.rglob("eyes-*.json")}
        paths = [path.with_suffix(".tar") for path, whole in records.items()
                 if path.read_bytes() == whole.read_bytes()]  # fmt: skip
        return {path: path.stat().st_mtime_ns for path in paths + epoch_files(out)}

    def compare(self, out: Path) -> None:
        assert content(out) == content(self.whole)
        if self.package == "train":
            assert_same_run(out, self.whole)
            drawn, told = ((out / name).stat().st_mtime_ns for name in (HISTORY_PLOT, HISTORY_FILE))
            assert drawn >= told, "the plot lacks epochs"


def content(root: Path) -> dict[Path, str]:
    """Return all files (but what was before a first checkpoint, set aside) and their checksums."""
    paths = (path.relative_to(root) for path in root.rglob("*.*") if path.is_file())
    return {path: "" if path.name in VARIES or path.suffix == ".pth" else file_sha256(root / path)
            for path in paths if not path.parts[0].startswith("previous-")}  # fmt: skip


def command(package: str, words: list[str], log: Path, writes: int) -> None:
    """Run a command in this process, on a disk that turns read-only after so many files."""

    def refuse(event: str, its: tuple[object, ...]) -> None:
        nonlocal writes
        if event in {"open", "os.rename", "os.remove"} and f"{words[-1]}/" in str(its[0]):
            opens = event == "open" and bool(set(str(its[1])) & set("wa"))
            writes -= opens
            if writes < 0 and (opens or event != "open"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(its[0]))

    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    tiny = train.config.ModelConfig(8, 3)
    train.config.TrainConfig = partial(train.config.TrainConfig, model=tiny)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # not the usual semaphore: a killed process would leave it
    sys.addaudithook(refuse)
    import_module(f"{package}.cli").main(words)


def forked(package: str, words: list[str], log: Path, writes: int = 1 << 30) -> Run:
    """Start a command in a fork of a process that has imported all that takes long, and no more."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["train.loop", "torch._dynamo", "matplotlib.figure", "pytest"])
    log.write_bytes(b"")
    process = context.Process(target=command, args=(package, words, log, writes))
    process.start()
    return Run(process.pid, lambda: process.exitcode, log)


def begun(out: Path) -> set[Path]:
    """Return the files that are not complete."""
    folders = (out, *(out / split for split in SPLITS))
    return {path for folder in folders for path, _, _ in unfinished(folder)}


def watch(
    run: Run, out: Path, seconds: float = math.inf, number: float = math.inf
) -> tuple[float, int]:
    """Wait for its end, or so long after its first line, or so many files; return both."""
    before, seen, first = begun(out), set(), math.inf
    until = time.monotonic() + 120
    while run.code() is None and time.monotonic() - first < seconds and len(seen) < number:
        assert time.monotonic() < until, f"{run.log.read_text()} and it still runs"
        first = time.monotonic() if first == math.inf and run.log.stat().st_size else first
        seen |= begun(out) - before
        time.sleep(0.01 if number == math.inf else 0.001)
    return time.monotonic() - first, len(seen)


def processes(session: int) -> dict[int, bytes]:
    """Return the processes of a session, zombies apart, with the words of their commands."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, its = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes()
    return found


def kill(run: Run, end: str, terminal: bool) -> None:
    """End a run, or one of its workers; a terminal sends its Ctrl-C to all processes."""
    workers: list[int] = []
    while end == "worker" and not workers and run.code() is None:
        workers = [pid for pid, words in processes(run.pid).items() if b"spawn_main" in words]
    if run.code() is None:
        send = os.killpg if end == "SIGINT" and terminal else os.kill
        with suppress(ProcessLookupError):
            send(*((workers[0], signal.SIGKILL) if workers else (run.pid, signal.Signals[end])))


def chain(program: Program, number: int, out: Path, log: Path) -> None:
    """Kill a run and resume it, again and again; one that ends before its kill begins anew."""
    chance = random.Random(f"{SEED} {program.package} {number}")
    ends, code, done = [*ENDS][: 4 if program.older.exists() else 3], 0, 0
    chance.shuffle(ends)
    while code or ends:
        if code == 0 and program.older.exists() and chance.random() < 0.5:
            shutil.copytree(program.older, out)
        kept, run, more = program.kept(out), program.start(out, log), 0
        if ends:
            left = max(0.2, 1 - done / program.count)  # the more is done, the sooner
            seconds, count = chance.uniform(0, left * program.seconds), math.inf
            if by_file := chance.random() < 0.5:
                seconds, count = math.inf, chance.randint(1, math.ceil(left * program.count))
            ran, more = watch(run, out, seconds, count)
            time.sleep(by_file * chance.uniform(0, 0.003))
            kill(run, ends[-1], terminal=chance.random() < 0.5)
        watch(run, out)
        code, said, until = run.code(), log.read_text(), time.monotonic() + 10
        while orphans := processes(run.pid):
            assert time.monotonic() < until, f"{orphans} are still there"
        assert_whole(out)
        for path, stamp in kept.items():
            assert not path.exists() or path.stat().st_mtime_ns == stamp, f"{path} again"
        if code == -signal.SIGINT:  # it came when all was done, and Python was ending
            code = 0
        if code == 0:
            assert not begun(out)
            program.compare(out)
            shutil.rmtree(out)
            done = 0
        else:
            end, done = ends.pop(), done + more
            print(f"{program.package}: {end} after {ran:.2f} s, {more} files begun")
            expected, words = ENDS[end]
            assert code == expected, said
            assert words is None or (words in said and "Traceback" not in said), said


@pytest.fixture(scope="module", params=["preprocess", "train"])
def program(
    request: pytest.FixtureRequest, small: Path, pack_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Program:  # fmt: skip
    place = tmp_path_factory.mktemp(request.param)
    words = f"--shards {pack_root} --epochs 6 --batch 2 --lr 0.01 --augment off --loader portable"
    words += " --device cpu --resume --output"
    if request.param == "preprocess":
        words = f"--data {small} --size 256 --samples-per-shard 2 --update --out"
        call(main, *words.split(), place / "older", "--quality", 80, "--workers", 1)
    program = Program(request.param, words, place / "whole", place / "older")
    run = program.start(program.whole, place / "log")
    seconds, count = watch(run, program.whole, number=1 << 30)
    assert (run.code(), count > 5) == (0, True), run.log.read_text()
    return replace(program, seconds=seconds, count=count)


@pytest.mark.parametrize("number", ROUNDS)
def test_killed_anywhere_it_ends_the_same(program: Program, number: int, tmp_path: Path) -> None:
    chain(program, number, tmp_path / "out", tmp_path / "log")


def test_a_disk_that_turns_read_only_is_named(program: Program, tmp_path: Path) -> None:
    alone, out = "--workers 1 " * (program.package == "preprocess"), tmp_path / "out"
    words = f"{alone}{program.words} {out}".split()
    writes = random.Random(SEED).randrange(2, program.count)
    for more, code in ((writes, 2), (1 << 30, 0)):
        run = forked(program.package, words, tmp_path / "log", more)
        watch(run, out)
        said = run.log.read_text()
        assert run.code() == code, said
        assert not re.search(r"Traceback|\.tmp:", said)
        if code:
            assert re.search(rf"Error: {out}/.*: Read-only file system. Check the path", said)
        assert_whole(out)
    program.compare(out)

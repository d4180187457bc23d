"""The process and its machine: cores, workers, memory, and whether DALI is there.

glibc hands freed memory back to the kernel and then faults it in again, page by page, for every
picture-sized buffer; keeping it made decoding and training 1.2 to 3 times as fast where we
measured. OpenMP threads spin while they wait for work, which starves every other process of the
core; letting them sleep costs little on an idle machine and is ten times faster on a busy one.
Environment variables that the user has set take precedence over both.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

from preprocess.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

# From glibc's malloc.h, for mallopt(3): environment variable, parameter number, bytes.
_MALLOC = (
    ("MALLOC_MMAP_THRESHOLD_", -3, 1 << 30),
    ("MALLOC_TRIM_THRESHOLD_", -1, 1 << 30),
    ("MALLOC_TOP_PAD_", -2, 64 << 20),
)
_LOOK_SECONDS = 0.2  # how often a pool looks for a Ctrl-C


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for reuse; return whether it agreed (False off glibc)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no mallopt
        return False
    return all(name in os.environ or mallopt(number, value) for name, number, value in _MALLOC)


def tune_process(enabled: bool = True) -> str:
    """Apply both settings to this process and, through the environment, to its children.

    Call it before torch is imported: OpenMP reads its policy once, when it is loaded. Returns a
    line for the log.
    """
    if not enabled:
        return "process tuning off"
    policy = os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    late = " (torch was imported before: no effect)" if "torch" in sys.modules else ""
    kept = "kept" if keep_freed_memory() else "left to the system"
    return f"process tuning: freed memory {kept}, OMP_WAIT_POLICY={policy}{late} (off: --no-tune)"


def usable_cores() -> int:
    """Return the cores in this process's affinity mask (a container may give fewer than it has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(
    job: Callable[[T], R], tasks: Sequence[T], workers: int | None = None
) -> Iterator[R]:
    """Yield `job` of each task as it is done, by workers (None: one a core; 1: this process)."""
    workers = min(workers or usable_cores(), len(tasks))
    if workers <= 1:
        yield from map(job, tasks)
        return
    # spawn: a fork of a process with running threads (torch, DALI, OpenCV) can deadlock.
    spawn = multiprocessing.get_context("spawn")
    with interrupts_noted() as noted:
        others = multiprocessing.active_children()
        executor = ProcessPoolExecutor(workers, spawn, initializer=_start_worker)
        waiting: set[Future[R]] = set()
        try:
            with _interrupts_blocked():
                waiting = {executor.submit(job, task) for task in tasks}
            while waiting and not noted:
                done, waiting = wait(waiting, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            remedy = "What is finished is kept: run again, with fewer --workers if memory was short"
            raise InputError("--workers", "a worker process was killed", remedy) from None
        finally:
            if not waiting:
                # A worker that is killed from here on would leave the queue locked for the others.
                for worker in set(multiprocessing.active_children()).difference(others):
                    worker.terminate()
            executor.shutdown(cancel_futures=True)
    if noted:
        raise KeyboardInterrupt


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Collect Ctrl-C: raised amid the threads and callbacks of a pool, it can get lost there."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let the processes that are started here never see a Ctrl-C: the parent tells them to stop."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells workers when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tune_worker()


def tune_worker() -> None:
    """Prepare a process that is one worker of many: one thread each, freed memory kept."""
    import cv2

    keep_freed_memory()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    """End this worker when its parent ends, even by SIGKILL.

    The workers of `ProcessPoolExecutor` would wait for their next task for ever: each holds the
    writing end of the queue it reads, so none sees it closed.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def dali_is_installed() -> bool:
    """Return whether NVIDIA DALI can be imported (there are wheels for Linux only)."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None

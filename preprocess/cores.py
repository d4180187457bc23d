"""Processor cores, and the worker processes on them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def usable_cores() -> int:
    """Return the cores in this process's affinity mask (a container may give fewer than it has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Make a worker process end when its parent does, even by SIGKILL.

    The workers of `ProcessPoolExecutor` would wait for their next task for ever: each holds the
    writing end of the queue it reads, so none sees it closed.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

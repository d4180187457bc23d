"""Work on a Ray cluster, or on a local one that is started for it; Ray is imported only for this.

Ray places tasks and tells when a worker has died. What is tried again is decided here, as Ray
alone would try a task that runs out of memory for ever. So a task must be one that may be done
twice.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from preprocess.errors import InputError, require
from preprocess.runtime import in_processes, interrupts_noted, tune_worker, usable_cores
from preprocess.storage import Place

T = TypeVar("T")
R = TypeVar("R")

_TRIES = 3  # of a task whose worker dies
_LOOK_SECONDS = 0.2  # how often to look for a Ctrl-C
_ANSWER_SECONDS = 30.0  # for a cluster to answer: `ray.init` would ask for ever
_STOP_SECONDS = 10.0  # for tasks to end that are told to
_ADDRESS = re.compile(r"auto|[\w.:\[\]-]+:[0-9]{1,5}", re.ASCII)


def by_workers(
    job: Callable[[T], R], tasks: Sequence[T], workers: int | None, ray: str | None,
    places: Iterable[Place],
) -> Iterator[R]:  # fmt: skip
    """Yield `job` of each task, which has a name, as it is done, by processes or on Ray.

    `ray` is an address as of `on_ray`; None: processes of this machine. All nodes must find the
    `places` that are on this machine's disk.
    """
    if ray is None:
        return in_processes(job, tasks, workers)
    shared = [place for place in places if isinstance(place, Path) and place.exists()]
    return on_ray(job, tasks, workers, ray, attrgetter("name"), shared)


def on_ray(
    job: Callable[[T], R], tasks: Sequence[T], workers: int | None = None, address: str = "local",
    name: Callable[[T], str] = str, shared: Sequence[Path] = (),
) -> Iterator[R]:  # fmt: skip
    """Yield `job` of each task as it is done, by workers of a Ray cluster.

    If Ray is initialized already, that cluster is used, and left as it is.

    Parameters
    ----------
    job, tasks
        Picklable. Workers import the modules that they name.
    workers
        How many tasks may run at a time; None: as many as the cluster has CPUs.
    address
        HOST:PORT of a cluster, "auto" for one of this machine, "local" to start one and end it.
    name
        Gives what errors call a task.
    shared
        What each worker must find under these paths too, lest it work on a disk of its own.

    Raises
    ------
    InputError
        If the cluster cannot be used, or, once all else is done, if the worker of some task died
        three times.
    """
    if not tasks:
        return
    ray, failed = _ray(), list[str]()
    with interrupts_noted() as noted, _cluster(ray, workers, address):
        remote = ray.remote(num_cpus=1, max_retries=0)(_prepared(job, shared))
        rest, running = iter(tasks), dict[Any, tuple[T, int]]()
        try:
            while not noted:
                most = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))
                for task in islice(rest, max(0, most - len(running))):
                    running[remote.remote(task)] = task, 1
                if not running:
                    break
                for done in ray.wait(list(running), timeout=_LOOK_SECONDS)[0]:
                    task, tries = running.pop(done)
                    result, death = _result(ray, done)
                    if not death:
                        yield result
                    elif tries < _TRIES:
                        running[remote.remote(task)] = task, tries + 1
                    else:
                        failed.append(f"{name(task)} ({death})")
        finally:
            _stop(ray, list(running))
    if noted:
        raise KeyboardInterrupt
    if failed:
        more = f" and {len(failed) - 1} more" if failed[1:] else ""
        remedy = "All else is done: run again, with fewer --workers if memory was short"
        raise InputError(failed[0] + more, f"a worker died {_TRIES} times", remedy)


def _prepared(job: Callable[[T], R], shared: Sequence[Path]) -> Callable[[T], R]:
    """Return the job as workers do it; Ray sends it, and all that it names, once to each."""
    here = Path.cwd()

    def work(task: T) -> R:
        with suppress(OSError):  # paths may be relative to it
            os.chdir(here)
        for path in shared:
            if not path.exists():
                problem = f"does not exist on {socket.gethostname()}"
                raise InputError(path, problem, "All nodes must share it, under the same path")
        tune_worker()
        return job(task)

    return work


def _result(ray: Any, done: Any) -> tuple[Any, str]:
    """Return a task's result, or what its worker died of; raise what the task raised."""
    kinds = ray.exceptions
    lost = kinds.WorkerCrashedError, kinds.OutOfMemoryError, kinds.ObjectLostError
    try:
        return ray.get(done), ""
    except kinds.RayTaskError as error:
        if "failed to import on the worker" in str(error.cause):
            problem = f"a node lacks a module ({str(error.cause).strip().splitlines()[-1]})"
            remedy = "Install the same version of all packages on all nodes"
            raise InputError("--address", problem, remedy) from None
        raise error.cause from error
    except (*lost, kinds.NodeDiedError, kinds.LocalRayletDiedError) as error:
        return None, type(error).__name__


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        remedy = "Install the extra `ray`: pip install '.[ray]'"
        raise InputError("--engine", "is ray, which is not installed", remedy) from None
    return ray


@contextmanager
def _cluster(ray: Any, workers: int | None, address: str) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = workers or usable_cores()
        ray.init(address, num_cpus=cpus, include_dashboard=False, **quiet)
    else:
        _require_answer(address)
        ray.init(address, **quiet)
    # Else it prints pages about a node that dies, on stdout; no option of Ray's keeps it from that.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True


def _require_answer(address: str) -> None:
    """Connect in another process, as one that waits for an answer can only be killed."""
    require(bool(_ADDRESS.fullmatch(address)), "--address", f"is {address!r}", "HOST:PORT or auto")
    connect = [sys.executable, "-c", "import ray, sys; ray.init(sys.argv[1])", address]
    try:
        subprocess.run(connect, capture_output=True, check=True, timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        problem = f"no Ray cluster answers in {_ANSWER_SECONDS:.0f} seconds"
        raise InputError(address, problem, "Check the address (HOST:PORT of its head)") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
        remedy = "Check address, token and versions"
        raise InputError(address, f"cannot be used ({said:.200})", remedy) from None


def _stop(ray: Any, running: list[Any]) -> None:
    """End tasks in an orderly way: they remove what they had half written."""
    for task in running:
        ray.cancel(task)
    if running:
        ray.wait(running, num_returns=len(running), timeout=_STOP_SECONDS)

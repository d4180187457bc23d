"""Several processes, as `torchrun` starts them; one process is the case world = 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from preprocess.errors import InputError
from train.device import resolve_device

_PATIENCE = timedelta(seconds=50)  # with processes that do not answer; a step takes a second
_LOADING = timedelta(minutes=20)  # with those whose disk is slower, before the first step
_LOST = ("gloo", "connection", "timed out", "timeout", "broken pipe")  # in messages of gloo


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def share(self, batch: int, parts: int = 1) -> slice:
        """Return which rows of a batch of all processes are this one's.

        The processes have equal shares, and a share has so many equal parts.
        """
        if batch % (self.world * parts):
            problem = f"{batch} samples cannot be shared by {self.world} processes"
            if parts > 1:
                problem = f"{batch} samples cannot be shared by {self.world} x {parts} parts"
            raise InputError("--batch", problem, f"Give a multiple of {self.world * parts}")
        rows = batch // self.world
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def check(self, samples: int, split: str) -> None:
        """Refuse a split that has not a sample for each process."""
        if samples < self.world:
            problem = f"has {samples} samples for {self.world} processes"
            raise InputError(f"split {split!r}", problem, "Start fewer processes")

    def meet(self) -> None:
        """Wait for all processes, longer than anywhere else."""
        if self.world > 1:
            group = dist.new_group(backend="gloo", timeout=_LOADING)
            dist.monitored_barrier(group, timeout=_LOADING)

    def have_the_same(self, value: object) -> bool:
        """Return whether a value is the same in all processes."""
        found = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(found, value)
        return found == [value] * self.world

    def gather(self, rows: Tensor) -> Tensor:
        """Join the rows (any number a process) of all processes, in rank order."""
        if self.world == 1:
            return rows
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, rows.cpu())
        return torch.cat(parts)

    def agree(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers: what it saves is what they evaluate."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the group that `torchrun` announced, if any, and choose this process's device."""
    processes = Processes(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    chosen = resolve_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if processes.world == 1:
        yield processes, chosen
        return
    if device.startswith("cuda:"):
        problem = f"is {device!r} for {processes.world} processes"
        raise InputError("--device", problem, "Use --device cuda: each process takes its own")
    try:
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", store=_store(), timeout=_PATIENCE,
            rank=processes.rank, world_size=processes.world,
        )  # fmt: skip
        yield processes, chosen
        # Not after an exception: the others may be waiting in a collective, and torchrun ends them.
        dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(map(str(error).lower().count, _LOST)):
            raise
        problem = f"another of the {processes.world} processes has ended or no longer answers"
        remedy = "Look for its own message; then start all of them again, with --resume"
        reason = " ".join(str(error).split())[-160:]
        raise InputError(f"process {processes.rank}", f"{problem} ({reason})", remedy) from error


def _store() -> Any:
    """Connect to the store in which processes find each other.

    If torchrun restarts them it keeps its store, and in it the addresses of the dead
    (pytorch/pytorch#135712): so each start has its own keys. Agents count starts each for itself;
    several of them need a store of each start's own (docs/scale.md).
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=_PATIENCE))  # type: ignore[attr-defined]
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if kept else "0"
    return dist.PrefixStore(f"restart {restarts}", store)  # type: ignore[attr-defined]


def distribute(model: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """Wrap a model for training in several processes: shared gradients.

    On CUDA batch statistics are shared too, and n processes compute what one with the whole batch
    computes. On a CPU each has its own (torch's SyncBatchNorm needs CUDA), and the first one's
    running statistics count.
    """
    if processes.world == 1:
        return model
    ids = None
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        ids = [device]
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def unshared(model: nn.Module) -> AbstractContextManager[None]:
    """Let gradients add up in each process, if there are several, and not be shared."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()

"""Several processes, as `torchrun` starts them; one process is the case world = 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from preprocess.errors import InputError


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Join the rows (any number a process) of all processes, in rank order."""
        if self.world == 1:
            return rows
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, rows.cpu())
        return torch.cat(parts)

    def gather_list(self, items: list[str]) -> list[str]:
        """Join the lists of all processes, in rank order."""
        if self.world == 1:
            return items
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the group that `torchrun` announced, if any, and choose this process's device.

    Parameters
    ----------
    device
        "auto", "cpu", "cuda" or "cuda:N".

    Raises
    ------
    InputError
        Where the device does not exist.
    """
    processes = Processes(
        int(os.environ.get("RANK", 0)),
        int(os.environ.get("WORLD_SIZE", 1)),
        int(os.environ.get("LOCAL_RANK", 0)),
    )
    chosen = resolve_device(device, processes.local_rank)
    if processes.world == 1:
        yield processes, chosen
        return
    if device.startswith("cuda:"):
        problem = f"is {device!r} for {processes.world} processes"
        raise InputError("--device", problem, "Use --device cuda: each process takes its own")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    yield processes, chosen
    # Not after an exception: the others may be waiting in a collective, and torchrun ends them.
    dist.destroy_process_group()


def resolve_device(device: str, local_rank: int = 0) -> torch.device:
    """Turn auto, cpu, cuda or cuda:N into a device that exists.

    Raises
    ------
    InputError
        Where it does not.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError("--device", f"is {device!r}", "Expected auto, cpu or cuda") from None
    if chosen.type == "cuda":
        index = local_rank if chosen.index is None else chosen.index
        if index >= torch.cuda.device_count():
            problem = f"is {device!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices"
            raise InputError("--device", problem, "Use --device cpu or auto")
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if chosen.type != "cpu":
        raise InputError("--device", f"is {device!r}", "Expected auto, cpu or cuda")
    return chosen


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, on any backend.

    torch's own SyncBatchNorm needs CUDA; this one runs under gloo too. With it, n processes
    compute what one process with the whole batch computes, to rounding.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise N x C x H x W by the statistics of all processes (running ones in eval)."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        given_type, features = features.dtype, features.float()
        moments = torch.cat([features.mean(dim=(0, 2, 3)), features.square().mean(dim=(0, 2, 3))])
        moments = all_reduce(moments) / dist.get_world_size()  # type: ignore[no-untyped-call]
        mean, square = moments.chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            count = features.numel() / features.shape[1] * dist.get_world_size()
            momentum = self.momentum or 0.1
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normalised: Tensor = features * scale[:, None, None] + shift[:, None, None]
        return normalised.to(given_type)


def distribute(model: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """Wrap a model for training in several processes: shared gradients and batch statistics."""
    if processes.world == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        ids = [device]
    else:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncedBatchNorm
        ids = None
    # Every process computes the same statistics, so there is nothing to broadcast.
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

"""Batches of a split: decoded once and kept, or decoded anew every epoch; they are the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from preprocess.errors import InputError, require
from preprocess.runtime import dali_is_installed, usable_cores
from train.config import LOADERS
from train.device import send
from train.split import Rows, Split

_SHARE = 0.25  # of the memory that is free, for `auto`
_FILL_BATCH = 64  # samples that a store asks the decoder for at a time


@dataclass(frozen=True)
class Batch:
    """Decoded samples, on the device that trains."""

    images: Tensor  # N x H x W x 3 uint8, RGB
    masks: Tensor  # N x H x W uint8, 255 where an eye is, else 0
    rows: Rows  # N int32, the samples' numbers in their split


# (split, batches of sample numbers, device, threads) to images and masks as in `Batch`.
Decode = Callable[[Split, Sequence[Rows], torch.device, int], Iterator[tuple[Tensor, Tensor]]]


def resolve_loader(kind: str) -> str:
    """Turn "auto" into "dali" or "portable"; an `InputError` if DALI is asked for and missing."""
    require(kind in LOADERS, "--loader", f"is {kind!r}", ", ".join(LOADERS))
    if kind == "dali" and not dali_is_installed():
        remedy = "Install nvidia-dali-cuda120 (Linux only), or use --loader portable"
        raise InputError("--loader dali", "NVIDIA DALI is not installed", remedy)
    if kind == "auto":
        return "dali" if dali_is_installed() else "portable"
    return kind


def decoder(kind: str) -> Decode:
    """Return the decoder of that name: auto, dali or portable."""
    if resolve_loader(kind) == "dali":
        from train.dali import decode
    else:
        from train.portable import decode
    return decode


def processes_here() -> int:
    """Count the processes of this run on this machine (torchrun says how many)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def decoding_threads() -> int:
    """Return how many threads decode: this process's share of the cores, 2 to 16."""
    return max(2, min(16, usable_cores() // processes_here()))


class Loader:
    """Batches of one split, on a device.

    `kind` says what decodes (auto, dali or portable), `cache` whether decoded samples are kept
    (off, auto or gigabytes).
    """

    def __init__(
        self, split: Split, device: torch.device, kind: str = "auto", cache: str = "off",
        *, quiet: bool = True,
    ) -> None:  # fmt: skip
        self.split, self.device = split, device
        self._decode, self._quiet = decoder(kind), quiet
        self.place = place_store(cache, 4 * split.samples * split.size**2, device)
        self._store: tuple[Tensor, Tensor] | None = None

    def batches(self, order: Sequence[Rows]) -> Iterator[Batch]:
        """Yield the batches of an order of samples; an `InputError` names an unreadable one."""
        if not order:  # more processes than samples
            return
        if self.place is None:
            decoded = self._decode(self.split, order, self.device, decoding_threads())
            for rows, (images, masks) in zip(order, decoded, strict=True):
                yield Batch(images, masks, rows)
            self.split.verify()
            return
        store = self._store = self._store or self._filled(self.place)
        for rows in order:
            index = send(torch.from_numpy(rows), self.place)
            images, masks = (send(plane.index_select(0, index), self.device) for plane in store)
            yield Batch(images, masks, rows)

    def _filled(self, place: torch.device) -> tuple[Tensor, Tensor]:
        """Decode the whole split, once, in the order of its shards."""
        split, order = self.split, self.split.in_order(_FILL_BATCH)
        images = torch.empty(
            (split.samples, split.size, split.size, 3), dtype=torch.uint8, device=place
        )
        masks = torch.empty(images.shape[:3], dtype=torch.uint8, device=place)
        decoded = self._decode(split, order, self.device, decoding_threads())
        with tqdm(total=split.samples, unit="img", desc=f"decode {split.name}",
                  disable=True if self._quiet else None, leave=False) as bar:  # fmt: skip
            for rows, (some_images, some_masks) in zip(order, decoded, strict=True):
                part = slice(int(rows[0]), int(rows[-1]) + 1)
                images[part], masks[part] = some_images, some_masks
                bar.update(len(rows))
        split.verify()
        return images, masks


def place_store(cache: str, needed: int, device: torch.device) -> torch.device | None:
    """Choose where decoded samples, `needed` bytes, are kept; None if they are not.

    "auto" grants a quarter of what is free, on the device if it is a GPU, else on the host; a
    number of gigabytes is granted on the device; "off" grants nothing.
    """
    if cache == "off":
        return None
    host = torch.device("cpu")
    if cache == "auto":
        free = {host: available_memory() / processes_here()}
        if device.type == "cuda":
            free = {device: float(torch.cuda.mem_get_info(device)[0]), **free}
        granted = {place: _SHARE * size for place, size in free.items()}
    else:
        try:
            gigabytes = float(cache)
        except ValueError:
            gigabytes = -1.0
        if not 0 <= gigabytes < float("inf"):
            raise InputError("--cache", f"is {cache!r}", "Expected auto, off or gigabytes, e.g. 8")
        granted = {device: 1e9 * gigabytes}
    return next((place for place, size in granted.items() if needed <= size), None)


def available_memory() -> float:
    """Return the bytes that can be used without swapping; 0 if the system does not say."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = float(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            # macOS gives no figure for what is free: half of all is a fair guess.
            return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return 0.0
    # A container's own limit (cgroup v2), if there is one.
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, float(limit) - float(used))
    except (OSError, ValueError):
        return free

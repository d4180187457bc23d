"""Which sample is in which batch: a pure function of pack, seed, epoch and rank.

Both loaders follow it, so they give the same batches in the same order; a resumed run needs no
loader state; and n processes with batch b / n each see exactly the batches of one process with
batch b. Shuffling permutes the shards and the samples inside each (packing has already mixed the
samples over the shards), so reading stays local to one shard.

An epoch is kept as row numbers, four bytes a sample; keys and places are read from a shard's
index when its turn comes. So start-up and memory hardly depend on the number of samples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError
from preprocess.manifest import Manifest
from preprocess.shards import IndexEntry, ShardIndex, read_ahead

_KEPT_INDEXES = 4  # batches are asked for one after the other, with a few read ahead

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Segment:
    """Samples to read from one shard, in order: their rows in its index."""

    shard: Path
    rows: Rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        return self.shard == other.shard and np.array_equal(self.rows, other.rows)

    __hash__ = None  # type: ignore[assignment]

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """The samples' index entries, read now."""
        index = ShardIndex.read(self.shard)
        return tuple(index.entry(row) for row in self.rows.tolist())

    def part(self, first: int, last: int) -> Segment:
        """Return the samples from number `first` on, up to `last`."""
        return Segment(self.shard, self.rows[first:last])


@dataclass(frozen=True)
class EpochOrder:
    """What one process reads in one epoch, or in a stretch of it.

    Attributes
    ----------
    epoch
        Number of the epoch, counted from 0.
    segments
        Where the samples lie, in reading order.
    share
        Samples of this process in a batch; an evaluation's last may have fewer.
    first_row
        The row of each batch's first sample in the batch of all processes together.
    first_step
        The number of the first batch in the epoch.
    """

    epoch: int
    segments: tuple[Segment, ...]
    share: int
    first_row: int
    first_step: int = 0
    _indexes: dict[Path, ShardIndex] = field(default_factory=dict, compare=False, repr=False)

    @property
    def batches(self) -> Batches:
        """The keys of each batch, looked up when asked for."""
        return Batches(self)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(segment.rows) for segment in self.segments))

    @property
    def samples(self) -> int:
        """Samples in all batches."""
        return self._ends[-1] if self.segments else 0

    def places(self, step: int) -> list[Segment]:
        """Return where the samples of a batch lie."""
        return self._cut(step * self.share, (step + 1) * self.share)

    def keys(self, step: int) -> tuple[str, ...]:
        """Return the keys of a batch."""
        keys: list[str] = []
        for place in self.places(step):
            index = self.index(place.shard)
            keys += [index.key(row) for row in place.rows.tolist()]
        return tuple(keys)

    def index(self, shard: Path) -> ShardIndex:
        """Read the index of a shard whose turn has come, or take it from the last few."""
        if shard not in self._indexes:
            read_ahead(shard)
            if len(self._indexes) >= _KEPT_INDEXES:
                del self._indexes[next(iter(self._indexes))]
            self._indexes[shard] = ShardIndex.read(shard)
        return self._indexes[shard]

    def stretches(self, most: int) -> Iterator[EpochOrder]:
        """Cut the epoch at batches into stretches of at most `most` samples, or of one batch."""
        steps = max(1, most // self.share)
        for first in range(0, len(self.batches), steps):
            segments = self._cut(first * self.share, (first + steps) * self.share)
            yield EpochOrder(
                self.epoch, tuple(segments), self.share, self.first_row, self.first_step + first
            )

    def _cut(self, first: int, last: int) -> list[Segment]:
        """Return the samples from number `first` on, up to `last` or the end."""
        parts = []
        for number in range(bisect_right(self._ends, first), len(self.segments)):
            segment = self.segments[number]
            start = self._ends[number] - len(segment.rows)
            if start >= last:
                break
            parts.append(segment.part(max(0, first - start), last - start))
        return parts


class Batches(Sequence[tuple[str, ...]]):
    """The keys of each batch of an epoch: a sequence that looks them up when asked for."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def __len__(self) -> int:
        return -(-self._order.samples // self._order.share)

    @overload
    def __getitem__(self, step: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, step: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, step: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        steps = range(len(self))[step]
        if isinstance(steps, range):
            return [self._order.keys(number) for number in steps]
        return self._order.keys(steps)


@dataclass(frozen=True)
class SplitOrder:
    """Order of the samples of one split.

    Attributes
    ----------
    shards
        Shards in the manifest's order, with the number of samples in each.
    batch
        Samples in a step of all processes together.
    shuffle
        Whether to shuffle, and to leave out the last, incomplete batch (training).
    """

    shards: tuple[tuple[Path, int], ...]
    batch: int
    shuffle: bool
    seed: int = 0
    rank: int = 0
    world: int = 1

    @classmethod
    def read(
        cls, root: Path, split: str, batch: int, *, shuffle: bool, seed: int = 0,
        rank: int = 0, world: int = 1,
    ) -> SplitOrder:  # fmt: skip
        """Read the manifest of a split and check that shards and indexes are what it says.

        Raises
        ------
        InputError
            Where pack or split are missing, an index disagrees with the manifest, or the batch
            does not fit.
        """
        record = Manifest.load(root).split(split)
        if batch < 1:
            raise InputError("--batch", f"is {batch}", "Expected 1 or more")
        if batch % world:
            problem = f"{batch} samples cannot be shared by {world} processes"
            raise InputError("--batch", problem, f"Give a multiple of {world}")
        if shuffle and batch > record.samples:
            problem = f"is {batch}, but split {split!r} has {record.samples} samples"
            raise InputError("--batch", problem, "Give a smaller batch")
        shards = []
        for shard in record.shards:
            path = root / shard.name
            if not path.exists():
                raise InputError(path, "is missing", "Pack again: `make shards`")
            found = len(ShardIndex.read(path).lines)
            if found != shard.samples or path.stat().st_size != shard.bytes:
                raise InputError(path, "differs from the manifest", "Pack again: `make shards`")
            shards.append((path, shard.samples))
        return cls(tuple(shards), batch, shuffle, seed, rank, world)

    @property
    def samples(self) -> int:
        """Samples in the split, over all processes."""
        return sum(samples for _, samples in self.shards)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.samples, self.batch)
        return whole + bool(rest and not self.shuffle)

    def epoch(self, epoch: int) -> EpochOrder:
        """Return what this process reads in an epoch, counted from 0."""
        stream = [(path, np.arange(samples, dtype=np.int32)) for path, samples in self.shards]
        if self.shuffle:
            rng = np.random.default_rng((*b"order", self.seed, epoch))
            stream = [
                (stream[number][0], rng.permutation(len(stream[number][1])).astype(np.int32))
                for number in rng.permutation(len(stream))
            ]
        share = self.batch // self.world
        end = min(self.steps * self.batch, self.samples)
        segments, at = [], 0
        for path, rows in stream:
            places = np.arange(at, at + len(rows))
            mine = (places % self.batch // share == self.rank) & (places < end)
            if mine.any():
                segments.append(Segment(path, rows[mine]))
            at += len(rows)
        return EpochOrder(epoch, tuple(segments), share, self.rank * share)

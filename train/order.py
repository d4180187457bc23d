"""Which sample is in which batch: a pure function of pack, seed, epoch and rank.

Both loaders follow it, so they give the same batches in the same order; a resumed run needs no
loader state; and n processes with batch b / n each see exactly the batches of one process with
batch b. Shuffling permutes the shards and the samples inside each (packing has already mixed the
samples over the shards), so reading stays local to one shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.errors import InputError
from preprocess.manifest import Manifest
from preprocess.shards import IndexEntry, read_index


@dataclass(frozen=True)
class Segment:
    """Samples to read from one shard, in order."""

    shard: Path
    entries: tuple[IndexEntry, ...]


@dataclass(frozen=True)
class EpochOrder:
    """What one process reads in one epoch.

    Attributes
    ----------
    segments
        Where the samples lie, in reading order.
    batches
        The keys of each batch; all are full, except the last of an evaluation.
    first_rows
        The row of each batch's first sample in the batch of all processes together.
    """

    segments: tuple[Segment, ...]
    batches: tuple[tuple[str, ...], ...]
    first_rows: tuple[int, ...]


@dataclass(frozen=True)
class SplitOrder:
    """Order of the samples of one split.

    Attributes
    ----------
    shards
        Shards with their index entries, in the manifest's order.
    batch
        Samples in a step of all processes together.
    shuffle
        Whether to shuffle, and to leave out the last, incomplete batch (training).
    """

    shards: tuple[Segment, ...]
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
        """Read the manifest and the indexes of a split.

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
            entries = tuple(read_index(path))
            if len(entries) != shard.samples or path.stat().st_size != shard.bytes:
                raise InputError(path, "differs from the manifest", "Pack again: `make shards`")
            shards.append(Segment(path, entries))
        return cls(tuple(shards), batch, shuffle, seed, rank, world)

    @property
    def samples(self) -> int:
        """Samples in the split, over all processes."""
        return sum(len(shard.entries) for shard in self.shards)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.samples, self.batch)
        return whole + bool(rest and not self.shuffle)

    def epoch(self, epoch: int) -> EpochOrder:
        """Return what this process reads in an epoch, counted from 0."""
        shards = list(self.shards)
        if self.shuffle:
            rng = np.random.default_rng((*b"order", self.seed, epoch))
            shards = [
                Segment(shards[i].shard, tuple(shards[i].entries[j] for j in rng.permutation(
                    len(shards[i].entries))))
                for i in rng.permutation(len(shards))
            ]  # fmt: skip
        stream = [(number, e) for number, shard in enumerate(shards) for e in shard.entries]
        share = self.batch // self.world
        picked: list[tuple[int, IndexEntry]] = []
        batches, first_rows = [], []
        for step in range(self.steps):
            start = step * self.batch + self.rank * share
            rows = stream[start : min(start + share, (step + 1) * self.batch)]
            if rows:
                picked += rows
                batches.append(tuple(entry.key for _, entry in rows))
                first_rows.append(self.rank * share)
        segments = []
        for number, shard in enumerate(shards):
            entries = tuple(entry for owner, entry in picked if owner == number)
            if entries:
                segments.append(Segment(shard.shard, entries))
        return EpochOrder(tuple(segments), tuple(batches), tuple(first_rows))

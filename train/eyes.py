"""Where the eyes of packed samples are: what crops are placed by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError
from preprocess.shards import ShardIndex
from train.order import EpochOrder

# Where CelebA-HQ's alignment puts the eyes, as shares of the side; for pictures that show none.
_USUAL = ((0.37, 0.48), (0.63, 0.48))

Centres = npt.NDArray[np.float32]


class Eyes:
    """Centres of the eyes of samples: read when a shard's turn comes, then kept.

    They are 16 bytes a sample. To read them all before the first batch would cost half a minute
    of start-up a million samples, and more where each read goes to a disk.

    Parameters
    ----------
    size
        Side of the packed pictures in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[Path, Centres] = {}

    def of_batch(self, order: EpochOrder, step: int) -> Centres:
        """Return x and y in pixels of both eyes of each sample of a batch, N x 2 x 2.

        Of one eye, twice the same; where there is none, where eyes usually are.

        Raises
        ------
        InputError
            Where a sample of one of the batch's shards has no such metadata.
        """
        parts = []
        for place in order.places(step):
            if place.shard not in self._known:
                self._known[place.shard] = read_eyes(order.index(place.shard), self._size)
            parts.append(self._known[place.shard][place.rows])
        return np.concatenate(parts)


def read_eyes(index: ShardIndex, size: int, count: int | None = None) -> Centres:
    """Read the centres of the eyes from the metadata of a shard's samples, or of its first `count`.

    Raises
    ------
    InputError
        Where a sample has no such metadata.
    """
    usual = [[x * size, y * size] for x, y in _USUAL]
    found = []
    with index.shard.open("rb", buffering=0) as file:
        for row in range(len(index.lines))[:count]:
            entry = index.entry(row)
            try:
                _, offset, length, _ = next(c for c in entry.components if c[0] == "json")
                file.seek(offset)
                eyes = json.loads(file.read(length))["eyes"] or usual
            except (StopIteration, ValueError, KeyError):
                problem = f"sample {entry.key!r} does not say where its eyes are"
                remedy = "Pack again: `make shards`, or train with --crop off"
                raise InputError(index.shard, problem, remedy) from None
            found.append((eyes[0], eyes[-1]))
    return np.array(found, np.float32).reshape(-1, 2, 2)

"""Where the eyes of packed samples are: what crops are placed by."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError
from train.order import Segment

# Where CelebA-HQ's alignment puts the eyes, as shares of the side; for pictures that show none.
_USUAL = ((0.37, 0.48), (0.63, 0.48))


def read_eyes(shards: Iterable[Segment], size: int) -> dict[str, npt.NDArray[np.float32]]:
    """Read the centres of the eyes from the samples' metadata.

    Parameters
    ----------
    shards
        Shards with their index entries.
    size
        Side of the packed pictures in pixels.

    Returns
    -------
    dict
        By key, 2 x 2 float32: x and y in pixels of both eyes. Of one eye, twice the same; where
        there is none, where eyes usually are.

    Raises
    ------
    InputError
        Where a sample has no such metadata.
    """
    found = {}
    for segment in shards:
        with segment.shard.open("rb") as file:
            for entry in segment.entries:
                try:
                    _, offset, length, _ = next(c for c in entry.components if c[0] == "json")
                    file.seek(offset)
                    eyes = json.loads(file.read(length))["eyes"]
                except (StopIteration, ValueError, KeyError):
                    problem = f"sample {entry.key!r} does not say where its eyes are"
                    remedy = "Pack again: `make shards`, or train with --crop off"
                    raise InputError(segment.shard, problem, remedy) from None
                if not eyes:
                    eyes = [[x * size, y * size] for x, y in _USUAL]
                found[entry.key] = np.array([eyes[0], eyes[-1]], np.float32)
    return found

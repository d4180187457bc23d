"""Rectangles that hide eyes, as hair, hands and things do: where they lie, and their colour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from train.split import Centres

Floats = npt.NDArray[np.float64]

_LEAST = 0.03  # smallest share of a side
# How many lie on both eyes, how many anywhere, and how many come from beside, as hair or a hand.
_BOTH, _ANYWHERE, _ASIDE = 0.18, 0.12, 0.45


def draw_covers(
    rng: np.random.Generator, eyes: Centres, size: int, most: float
) -> tuple[Floats, Floats, Floats]:
    """Choose a rectangle for each picture, inside it, and a colour.

    Most lie over a part of one eye, some over both, some anywhere. `size` is the pictures' side,
    `most` the largest share of it. Returns first and last corner, N x 2 (x and y in whole pixels),
    and colour, N x 3 (RGB in levels).
    """
    count, least = len(eyes), min(_LEAST, most)
    one = eyes[np.arange(count), rng.integers(2, size=count)]
    kind = rng.random((count, 1))
    both, anywhere = kind < _BOTH, kind > 1 - _ANYWHERE
    aside = ~both & (kind < _BOTH + _ASIDE)
    centre = np.where(both, eyes.mean(axis=1), one)
    centre = np.where(anywhere, rng.uniform(0, size, (count, 2)), centre)
    extent = np.zeros((count, 2))
    if most:
        extent = size * np.exp(rng.uniform(np.log(least), np.log(most), (count, 2)))
        wide = size * most * rng.uniform([1.0, 0.2], [1.6, 0.9], (count, 2))
        extent = np.where(both, wide, extent)
    centre = centre + np.where(both, 0.15, 0.55) * rng.uniform(-1, 1, (count, 2)) * extent
    beside, large = _from_beside(rng, eyes, one)
    centre, extent = np.where(aside, beside, centre), np.where(aside & (most > 0), large, extent)
    first = np.clip(np.rint(centre - extent / 2), 0, size)
    last = np.clip(np.rint(centre + extent / 2), 0, size)
    # Half of them in the colours of skin and hair, from light to dark.
    tone = rng.uniform(20, 240, (count, 1)) * np.array([1.0, 0.78, 0.64])
    skin = np.clip(tone + rng.normal(0, 10, (count, 3)), 0, 255)
    colour = np.where(rng.random((count, 1)) < 0.5, skin, rng.uniform(0, 255, (count, 3)))
    return first, last, colour


def _from_beside(
    rng: np.random.Generator, eyes: Centres, one: npt.NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Choose centre and size (x, y), N x 2, of rectangles with one edge across an eye of each face.

    They leave a sliver of it, or all but a sliver, and are measured by the distance between the
    eyes: an eye is about 0.4 of it wide.
    """
    count = len(eyes)
    apart = np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1, keepdims=True)
    level = rng.random((count, 1)) < 0.75
    outward = np.where(one[:, :1] < eyes[..., 0].mean(axis=1, keepdims=True), -1.0, 1.0)
    sign = outward * np.where(rng.random((count, 1)) < 0.7, 1.0, -1.0)
    to = sign * np.where(level, [1.0, 0.0], [0.0, 1.0])
    across = to[:, ::-1] != 0
    shortest, longest = np.where(across, 0.5, 0.4), np.where(across, 3.0, 1.5)
    extent = apart * np.exp(rng.uniform(np.log(shortest), np.log(longest)))
    edge = apart * np.where(level, 0.24, 0.1) * rng.uniform(-1, 1, (count, 1)) * to
    slide = 0.35 * rng.uniform(-1, 1, (count, 1)) * extent * across
    return one + edge + to * extent / 2 + slide, extent

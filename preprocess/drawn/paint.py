"""What everything is painted with: soft edges, hills, noise, one colour over another."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def lay(base: Array, colour: Array, alpha: Array) -> Array:
    """Return base, (..., 3), under colour, the same or one RGB, of opacity alpha, (...), 0 to 1."""
    mixed = np.asarray(colour, np.float32) - base
    mixed *= np.asarray(alpha, np.float32)[..., None]
    mixed += base
    return mixed


def edge(distance: Array, width: float) -> Array:
    """Return coverage, 0 to 1, of where a distance is positive; it rises over `width`."""
    return np.asarray(np.clip(distance / width + 0.5, 0, 1), np.float32)


def hill(distance: Array, width: float) -> Array:
    """Return a Gaussian of height 1 at distance 0."""
    return np.asarray(np.exp(-((distance / width) ** 2)))


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Return smooth noise, mean 0 and deviation about 1, coarsest with (rows, columns) cells."""
    total = np.zeros(shape, np.float32)
    for octave in range(3):
        rows, columns = (max(2, n << octave) for n in cells)
        values = rng.standard_normal((rows, columns), np.float32) / np.float32(2**octave)
        total += cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return total

"""Decoded samples kept in memory: from the second epoch on nothing is read or decoded.

Everything decoded takes 4 bytes a pixel: CelebAMask-HQ's 24,183 training pictures at 256 x 256
are 6.3 GB. Each process keeps its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError

Pixels = npt.NDArray[np.uint8]
_SHARE = 0.25  # of the memory that is free, for `auto`


class SampleCache:
    """Pictures and masks by key, filled as they are seen; may be shared by threads.

    Parameters
    ----------
    samples
        How many different ones there are.
    size
        Side of the pictures in pixels.
    """

    def __init__(self, samples: int, size: int) -> None:
        # Pages that nobody wrote to cost nothing: the memory is taken as samples come.
        self._images = np.empty((samples, size, size, 3), np.uint8)
        self._masks = np.empty((samples, size, size, 1), np.uint8)
        self._next_row = count()
        self._rows: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        """Whether a sample is here."""
        return key in self._rows

    def missing(self, keys: Iterable[str]) -> int:
        """Count the samples that are not here yet."""
        return sum(key not in self._rows for key in keys)

    def put(self, key: str, image: Pixels, mask: Pixels) -> None:
        """Keep a copy of a sample: size x size x 3 RGB and a mask of 0 and 255."""
        if key in self._rows:
            return
        row = next(self._next_row)
        self._images[row] = image
        self._masks[row] = mask.reshape(self._masks.shape[1:])
        self._rows[key] = row  # from here on others find it

    def get(self, key: str) -> tuple[Pixels, Pixels]:
        """Return size x size x 3 and size x size x 1, as views: they must not be written to."""
        row = self._rows[key]
        return self._images[row], self._masks[row]


def open_cache(setting: str, samples: int, size: int, processes: int) -> SampleCache | None:
    """Return a cache where all samples fit into what `setting` grants (see `cache_bytes`)."""
    granted = cache_bytes(setting, processes)
    return SampleCache(samples, size) if 0 < 4 * samples * size**2 <= granted else None


def cache_bytes(setting: str, processes: int) -> float:
    """Return how many bytes this process may keep.

    Parameters
    ----------
    setting
        "auto": a quarter of the memory that is free; "off"; or a number of gigabytes.
    processes
        How many share this machine.

    Raises
    ------
    InputError
        Where the setting is something else.
    """
    if setting == "off":
        return 0.0
    if setting == "auto":
        return _SHARE * available_memory() / processes
    try:
        gigabytes = float(setting)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise InputError("--cache", f"is {setting!r}", "Expected auto, off or gigabytes, e.g. 8")
    return gigabytes * 1e9


def available_memory() -> float:
    """Return the bytes that can be used without swapping; 0 where the system does not say."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = float(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            # macOS gives no figure for what is free: half of all is a fair guess.
            return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return 0.0
    # A container's own limit (cgroup v2), where there is one.
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, float(limit) - float(used))
    except (OSError, ValueError):
        return free

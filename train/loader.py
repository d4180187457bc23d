"""One loader interface; `open_loader` picks DALI or the portable twin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from preprocess.check import dali_is_installed
from preprocess.cores import usable_cores
from preprocess.errors import InputError
from preprocess.manifest import Manifest
from train.batch import Batch, LoaderConfig
from train.decode import InputSpec


class Loader(Protocol):
    """A source of batches; stateless from epoch to epoch."""

    @property
    def samples(self) -> int:
        """Samples in the split, over all processes."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0."""


def read_spec(root: Path) -> InputSpec:
    """Return the input specification of a pack."""
    return InputSpec(size=Manifest.load(root).settings.size)


def resolve_loader(kind: str) -> str:
    """Turn "auto" into "dali" where it is installed, else "portable".

    Raises
    ------
    InputError
        Where the name is unknown, or DALI is asked for and missing.
    """
    if kind not in {"auto", "dali", "portable"}:
        raise InputError("--loader", f"is {kind!r}", "Expected auto, dali or portable")
    if kind == "dali" and not dali_is_installed():
        remedy = "Install nvidia-dali-cuda120 (Linux only), or use --loader portable"
        raise InputError("--loader dali", "NVIDIA DALI is not installed", remedy)
    if kind == "auto":
        return "dali" if dali_is_installed() else "portable"
    return kind


def processes_here() -> int:
    """Count the processes of this run on this machine (torchrun says how many)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def decoding_threads(threads: int | None) -> int:
    """Return the decoding threads to use; None takes this process's share of the cores.

    Raises
    ------
    InputError
        Where the number is below 1.
    """
    if threads is None:
        return max(2, min(16, usable_cores() // processes_here()))
    if threads < 1:
        raise InputError("--threads", f"is {threads}", "Expected 1 or more")
    return threads


def open_loader(config: LoaderConfig, kind: str = "auto") -> Loader:
    """Open the DALI or the portable loader.

    Raises
    ------
    InputError
        Where `kind` is unknown or not available here.
    """
    if resolve_loader(kind) == "dali":
        from train.dali_loader import DaliLoader

        return DaliLoader(config)
    from train.portable_loader import PortableLoader

    return PortableLoader(config)

"""The weights that come with the package; README.md beside this file is their model card."""

from __future__ import annotations

from pathlib import Path

from preprocess.errors import InputError
from train.checkpoint import Checkpoint

PATH = Path(__file__).with_name("eyes.safetensors")


def load_bundled() -> Checkpoint:
    """Read the bundled weights, after a look at their checksum.

    Raises
    ------
    InputError
        Where they are missing, or differ from their checksum.
    """
    try:
        digest = PATH.with_suffix(".sha256").read_text().split()[0]
    except (OSError, IndexError):
        remedy = "Install the package again, or give a --model"
        raise InputError(PATH.with_suffix(".sha256"), "is missing", remedy) from None
    return Checkpoint.load(PATH, sha256=digest)

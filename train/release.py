"""Weights to ship: a safetensors file that says how to use it, and its checksum.

The file is read without pickle, half the size of a checkpoint (convolutions in float16, which
moves no pixel that matters), and holds no state of the training.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from preprocess.errors import InputError
from preprocess.mask import LABELS
from preprocess.shards import atomic_file
from train.checkpoint import FORMAT_VERSION, Checkpoint
from train.config import model_config
from train.decode import InputSpec

SUFFIX = ".safetensors"
_METADATA = "eye_segmentation"  # safetensors keeps strings only: one JSON text


def export(checkpoint: Checkpoint, path: Path) -> str:
    """Write the weights of a finished model; return the file's sha256.

    Parameters
    ----------
    checkpoint
        A model as training leaves it, threshold and calibration included.
    path
        File to write, ending in ``.safetensors``.

    Raises
    ------
    InputError
        Where the ending is another.
    """
    if path.suffix != SUFFIX:
        raise InputError(path, f"ends in {path.suffix!r}", f"Expected {SUFFIX}")
    tensors = {
        name: (value.half() if value.ndim == 4 else value).contiguous()
        for name, value in checkpoint.weights.items()
    }
    content = {
        "format_version": FORMAT_VERSION,
        "model": asdict(checkpoint.model),
        "input": checkpoint.spec.to_dict(),
        "labels": dict(LABELS),
        "threshold": checkpoint.threshold,
        "calibration": checkpoint.calibration,
        "metrics": checkpoint.metrics,
        "epoch": checkpoint.epoch,
        "source": checkpoint.source,
    }
    data = save(tensors, {_METADATA: json.dumps(content, sort_keys=True)})
    with atomic_file(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read_release(
    path: Path, sha256: str | None = None, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Read weights that `export` wrote.

    Parameters
    ----------
    path
        The file.
    sha256
        Its checksum, where it is known: checked before anything else is read.
    device
        Where the weights go.

    Raises
    ------
    InputError
        Where the file is missing, damaged, changed, or no such file.
    """
    try:
        if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            remedy = "Install the package again, or give another --model"
            raise InputError(path, "differs from the checksum that was published with it", remedy)
        with safe_open(path, framework="pt", device=str(device)) as file:
            content: dict[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {content['format_version']}")
        return Checkpoint(
            model=model_config(content["model"]),
            spec=InputSpec.from_dict(content["input"]),
            weights={
                name: value.float() if value.is_floating_point() else value
                for name, value in weights.items()
            },
            threshold=content["threshold"],
            calibration=content["calibration"],
            metrics=content["metrics"],
            epoch=content["epoch"],
            source=content["source"],
        )
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(path, problem, "Give another --model") from None
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"holds no weights of this program ({error!r:.120})"
        raise InputError(path, problem, f"Give a {SUFFIX} file that `train export` wrote") from None

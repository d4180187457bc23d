"""Checkpoints: weights that know how to see, and all that a run needs to go on.

Read with ``weights_only=True``: a file from a stranger cannot run code.
"""

from __future__ import annotations

import re
import subprocess
import warnings
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from preprocess.errors import InputError
from preprocess.mask import LABELS
from preprocess.shards import atomic_file
from train.config import ModelConfig, model_config
from train.decode import InputSpec
from train.model import UNet, to_channels_last

MODEL_FILE = "eye_segmentation_model.pth"
FORMAT_VERSION = 2
_EPOCH_FILE = re.compile(r"model_checkpoint_epoch_(\d+)\.pth")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, with everything needed to use it.

    Attributes
    ----------
    model
        Shape of the network.
    spec
        Size and normalisation of its input.
    weights
        State dict (the averaged weights, where there are any).
    threshold
        Probability from which a pixel is an eye.
    calibration
        How the probabilities were corrected on val, and their calibration error; empty where they
        were not.
    metrics, epoch, source
        Figures on val, the epoch they belong to, and code revision and versions.
    training
        Optimiser and counters, to go on; empty in a finished model.
    """

    model: ModelConfig
    spec: InputSpec
    weights: dict[str, torch.Tensor]
    threshold: float = 0.5
    calibration: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    source: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        content = {
            "format_version": FORMAT_VERSION,
            "model": asdict(self.model),
            "input": self.spec.to_dict(),
            "labels": dict(LABELS),
            "threshold": self.threshold,
            "calibration": self.calibration,
            "metrics": self.metrics,
            "epoch": self.epoch,
            "source": self.source or source_of_this_code(),
            "weights": self.weights,
            "training": self.training,
        }
        with atomic_file(path) as file:
            torch.save(content, file)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Checkpoint:
        """Read a checkpoint, or weights that `train.release` wrote (``.safetensors``).

        Raises
        ------
        InputError
            Where the file is missing, damaged, or no checkpoint of this program.
        """
        if not path.is_file():
            remedy = "Train one first: `make train`, or name another with --model"
            raise InputError(path, "does not exist", remedy)
        if path.suffix == ".safetensors":
            from train.release import read_release

            return read_release(path, device=device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's remarks on files that it then refuses
                content = torch.load(path, map_location=device, weights_only=True)
            if content["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {content['format_version']}")
            return cls(
                model=model_config(content["model"]),
                spec=InputSpec.from_dict(content["input"]),
                weights=content["weights"],
                threshold=content["threshold"],
                calibration=content["calibration"],
                metrics=content["metrics"],
                epoch=content["epoch"],
                source=content["source"],
                training=content["training"],
            )
        except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
            reason = str(error).split("\n", 1)[0][:120]
            problem = f"cannot be read as a checkpoint ({reason})"
            raise InputError(path, problem, "The file may be cut off: copy it again") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"is no checkpoint of this program ({error!r})"
            raise InputError(path, problem, "Give an eye_segmentation_model.pth") from None

    def build(self) -> UNet:
        """Return the network with these weights, in evaluation mode, channels_last.

        Raises
        ------
        InputError
            Where the weights do not fit the network.
        """
        model = UNet(self.model)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            problem = f"weights do not fit the network ({reason})"
            raise InputError("checkpoint", problem, "Train again") from None
        return to_channels_last(model).eval()


def epoch_file(output: Path, epoch: int) -> Path:
    """Return the path of the training checkpoint after `epoch` epochs."""
    return output / f"model_checkpoint_epoch_{epoch}.pth"


def epoch_files(output: Path) -> list[Path]:
    """List the training checkpoints of a run, oldest first."""
    found = {
        int(match[1]): path
        for path in output.glob("model_checkpoint_epoch_*.pth")
        if (match := _EPOCH_FILE.fullmatch(path.name))
    }
    return [found[epoch] for epoch in sorted(found)]


@lru_cache(maxsize=1)
def source_of_this_code() -> dict[str, str]:
    """Return git revision (where there is one) and the versions of what computed the weights."""
    from preprocess import __version__

    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        revision = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {"revision": revision, "version": __version__, "torch": str(torch.__version__)}

"""Weights that know how to see: checkpoints of a run, and files for others to use.

A checkpoint (.pth) holds all that a run needs to go on; an export (.safetensors) has half the size
(convolutions in float16, which moves no pixel that matters) and no state of the training.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import warnings
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from preprocess.errors import InputError
from preprocess.files import atomic_file, file_sha256, from_fields
from preprocess.mask import LABELS
from preprocess.storage import Place, Remote
from train.calibration import Calibrated, Correction
from train.config import ModelConfig
from train.model import InputSpec, UNet, to_channels_last

MODEL_FILE = "eye_segmentation_model.pth"
EXPORT_SUFFIX = ".safetensors"
FORMAT_VERSION = 2
METADATA = "eye_segmentation"  # safetensors keeps strings only: one JSON text
_EPOCH_FILE = re.compile(r"model_checkpoint_epoch_(\d+)\.pth")
# Earlier files: what was a setting then, and the only value that is left.
_FIXED = {"stem": 2, "detail": 8}


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, with everything needed to use it."""

    model: ModelConfig
    spec: InputSpec
    weights: dict[str, Tensor]  # state dict of the averaged weights
    threshold: float = 0.5  # probability from which a pixel is an eye
    # How the probabilities are corrected (`train.calibration.Correction`), and their calibration
    # error on val before and after; empty if they are not.
    calibration: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # on val
    epoch: int = 0
    data: list[dict[str, Any]] = field(default_factory=list)  # packs: name, samples, weight
    source: dict[str, str] = field(default_factory=dict)  # code revision and versions
    training: dict[str, Any] = field(default_factory=dict)  # to go on; empty in a finished model

    def facts(self) -> dict[str, Any]:
        """Return everything but tensors."""
        return {
            "format_version": FORMAT_VERSION,
            "model": asdict(self.model),
            "input": asdict(self.spec),
            "labels": dict(LABELS),
            "threshold": self.threshold,
            "calibration": self.calibration,
            "metrics": self.metrics,
            "epoch": self.epoch,
            "data": self.data,
            "source": self.source or source_of_this_code(),
        }

    @classmethod
    def _from(cls, content: dict[str, Any]) -> Checkpoint:
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {content['format_version']}")
        shape, spec = dict(content["model"]), dict(content["input"])
        for name, value in _FIXED.items():
            if shape.pop(name, value) != value:
                raise ValueError(f"{name} of the network is not {value}")
        spec |= {name: tuple(spec[name]) for name in ("mean", "std")}  # JSON has lists only
        weights = {name: value for name, value in content["weights"].items()
                   if name != "calibration"}  # fmt: skip
        kept = ("threshold", "calibration", "metrics", "epoch", "source", "training")
        read = cls(from_fields(ModelConfig, shape), from_fields(InputSpec, spec), weights,
                   data=content.get("data", []),  # earlier files do not say
                   **{name: content[name] for name in kept})  # fmt: skip
        read._check()
        return read

    def _check(self) -> None:
        """Refuse what would end in a wrong answer: other shapes, and what is no number."""
        lowest = 9 * (self.model.width * 2**self.model.depth) ** 2  # numbers in its last filters
        if sum(value.untyped_storage().nbytes() for value in self.weights.values()) < 4 * lowest:
            raise ValueError(f"there are too few weights for {self.model}")  # it takes gigabytes
        with torch.random.fork_rng(devices=[]):
            wanted = UNet(self.model, self.spec).state_dict()
        for name in wanted.keys() | self.weights.keys():
            if name not in wanted or name not in self.weights:
                raise ValueError(f"{name} is missing or of no use")
            if self.weights[name].shape != wanted[name].shape:
                raise ValueError(f"{name} does not fit the network")
        if self.spec.size % self.model.stride:
            raise ValueError(f"size {self.spec.size} is no multiple of {self.model.stride}")
        if not (isinstance(self.threshold, float) and 0 < self.threshold < 1):
            raise ValueError(f"threshold {self.threshold!r} is not between 0 and 1")
        if not (type(self.epoch) is int and isinstance(self.training, dict)):
            raise ValueError("epoch or training state is of another type")
        for numbers in (self.calibration, self.weights, self.training.get("model", {})):
            _check_finite(numbers)

    def save(self, path: Place) -> None:
        """Write a checkpoint, whole or not at all."""
        content = self.facts() | {"weights": self.weights, "training": self.training}
        with atomic_file(path) as file, BytesIO() as buffer:
            torch.save(content, buffer)  # torch hides what a full disk says
            file.write(buffer.getbuffer())

    @classmethod
    def load(cls, path: Place, sha256: str | None = None) -> Checkpoint:
        """Read a checkpoint or an export; its checksum, if it is known, before anything else.

        Raises
        ------
        InputError
            If the file is missing, damaged, changed, or no model of this program.
        """
        if not (path.is_file() if isinstance(path, Path) else path.exists()):
            remedy = "Train one first: `make train`, or name another with --model"
            raise InputError(path, "does not exist", remedy)
        try:
            if sha256 is not None and file_sha256(path) != sha256:
                raise ValueError("it differs from the checksum that was published with it")
            return cls._from(_read(path))
        except (RuntimeError, UnpicklingError, EOFError, OSError, LookupError, TypeError,
                ValueError, AttributeError) as error:  # fmt: skip
            reason = str(error).split("\n", 1)[0][:120]
            problem = f"cannot be read as a model of this program ({reason})"
            remedy = "The file may be cut off: copy it again, or give another --model"
            raise InputError(path, problem, remedy) from None

    def export(self, path: Path) -> str:
        """Write the weights for others to use, as .safetensors; return the file's sha256."""
        from safetensors.torch import save

        if path.suffix != EXPORT_SUFFIX:
            raise InputError(path, f"ends in {path.suffix!r}", "Expected .onnx or .safetensors")
        tensors = {
            name: (value.half() if value.ndim == 4 else value).contiguous()
            for name, value in self.weights.items()
        }
        data = save(tensors, {METADATA: json.dumps(self.facts(), sort_keys=True)})
        with atomic_file(path) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def network(self) -> UNet:
        """Return the network, uncalibrated, in evaluation mode, channels_last."""
        model = UNet(self.model, self.spec)
        model.load_state_dict(self.weights)
        return to_channels_last(model).eval()

    def build(self, network: UNet | None = None) -> nn.Module:
        """Return the network (or `network`, made of it), its logits calibrated."""
        names = self.calibration.keys() & Correction.__dataclass_fields__.keys()
        correction = Correction(**{name: self.calibration[name] for name in names})
        return Calibrated(network or self.network(), correction).eval()


def _read(path: Place) -> Any:
    """Return the facts, weights and training state of a file; whatever it is, no code runs."""
    if not str(path).endswith(EXPORT_SUFFIX):
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # torch's remarks on files that it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors import SafetensorError, safe_open

    if isinstance(path, Remote):
        raise ValueError("an export is read from a disk: copy it there")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[METADATA])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    full = {n: v.float() if v.is_floating_point() else v for n, v in weights.items()}
    return facts | {"weights": full, "training": {}}


def _check_finite(values: dict[str, Any]) -> None:
    """Raise a ValueError if a number, or one in a tensor, is not finite."""
    for name, value in values.items():
        if not torch.isfinite(torch.as_tensor(value)).all():
            raise ValueError(f"{name} is not finite")


def epoch_file(output: Place, epoch: int) -> Place:
    """Return the path of the training checkpoint after `epoch` epochs."""
    return output / f"model_checkpoint_epoch_{epoch}.pth"


def epoch_files(output: Place) -> list[Place]:
    """List the training checkpoints of a run, oldest first."""
    found = {
        int(match[1]): path
        for path in output.glob("model_checkpoint_epoch_*.pth")
        if (match := _EPOCH_FILE.fullmatch(path.name))
    }
    return [found[epoch] for epoch in sorted(found)]


@lru_cache(maxsize=1)
def source_of_this_code() -> dict[str, str]:
    """Return git revision (if there is one) and the versions of what computed the weights."""
    from preprocess import __version__

    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        revision = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {"revision": revision, "version": __version__, "torch": str(torch.__version__)}

"""The network: ONNX Runtime for the bundled weights and .onnx files, torch for the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError
from preprocess.files import read_file

Plane = npt.NDArray[np.float32]
BUNDLED = Path(__file__).parent / "weights" / "eyes.onnx"
_ON_CPU = {"auto", "cpu"}
_LARGEST = 4096  # side of a square, in pixels
_AGAIN = "Install the package again, or give a --model"
_OURS = "Export it by `python -m train export`, or give another --model"
_FACTS = "eye_segmentation"  # the file's metadata, as `train.export` writes it


class OnnxNetwork:
    """An ``.onnx`` file, run by ONNX Runtime on the CPU (see `open_network`).

    Attributes
    ----------
    size
        Side of the square that a face is aligned to, in pixels.
    stride
        What the height and width of pictures have to be multiples of.
    threshold
        Probability from which a pixel is an eye.
    """

    def __init__(self, path: Path, threads: int = 0, sha256: str | None = None) -> None:
        self._path, self._session = path, open_session(path, threads, _AGAIN, sha256)
        try:
            facts = json.loads(self._session.get_modelmeta().custom_metadata_map[_FACTS])
            self.size, self.stride = facts["input"]["size"], facts["stride"]
            self.threshold = facts["threshold"]
            sound = (type(self.size), type(self.stride), type(self.threshold)) == (int, int, float)
            sound = sound and 0 < self.stride <= self.size <= _LARGEST and 0 < self.threshold < 1
            if not sound or self.size % self.stride:
                named = {"size": self.size, "stride": self.stride, "threshold": self.threshold}
                raise ValueError(f"{named!r:.100}")
        except KeyError as error:
            raise InputError(path, f"does not say its {error}", _OURS) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(path, f"has unusable metadata ({error!s:.120})", _OURS) from None
        self(np.full((1, self.stride, self.stride, 3), 128, np.uint8))  # is it what it says?

    def __call__(self, images: npt.NDArray[np.uint8]) -> Plane:
        """Turn N x H x W x 3 RGB into probabilities, N x H x W, 0..1."""
        try:
            (probability,) = self._session.run(["probability"], {"images": images})
        except _runtime_errors() as error:
            raise InputError(self._path, f"cannot be run ({_first_line(error)})", _OURS) from None
        return _checked(probability, images, self._path)


class TorchNetwork:
    """A checkpoint of `train`, or an export, run by torch; attributes as `OnnxNetwork`."""

    def __init__(self, path: Path, device: str = "auto", sha256: str | None = None) -> None:
        try:
            import torch
        except ImportError:
            remedy = "pip install '.[train]', or give an .onnx file (`python -m train export`)"
            raise InputError(path, "needs PyTorch, which is not installed", remedy) from None
        from train.checkpoint import Checkpoint
        from train.device import resolve_device
        from train.model import fold_batch_norm, to_channels_last

        checkpoint = Checkpoint.load(path, sha256=sha256)
        self.size, self.stride = checkpoint.spec.size, checkpoint.model.stride
        self.threshold, self._path = checkpoint.threshold, path
        self._torch, self._device = torch, resolve_device(device)
        folded = fold_batch_norm(checkpoint.network())
        self._model = checkpoint.build(to_channels_last(folded, self._device))

    def __call__(self, images: npt.NDArray[np.uint8]) -> Plane:
        """Turn N x H x W x 3 RGB into probabilities, N x H x W, 0..1."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
            probability = self._model(batch).sigmoid()[:, 0].cpu().numpy()
        return _checked(probability, images, self._path)


Network = OnnxNetwork | TorchNetwork


def _checked(probability: Any, images: npt.NDArray[np.uint8], path: Path) -> Plane:
    """Pass on what are probabilities for these images; NaN would look like "no eye"."""
    sound = isinstance(probability, np.ndarray) and probability.shape == images.shape[:3]
    if not (sound and probability.min() >= 0 and probability.max() <= 1):
        raise InputError(path, "gives something else than probabilities, such as NaN", _OURS)
    return np.asarray(probability, np.float32)


def open_session(path: Path, threads: int, remedy: str, sha256: str | None = None) -> Any:
    """Open an ONNX Runtime session; an `InputError` with `remedy` if the file is unfit."""
    import onnxruntime

    data = read_file(path, remedy)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    try:
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("it differs from the checksum that was published with it")
        if b"location" in data:  # the key by which ONNX names another file
            raise ValueError("it keeps weights in another file")
        provider = ["CPUExecutionProvider"]  # and no second try, which would be announced
        return onnxruntime.InferenceSession(data, options, provider, enable_fallback=0)
    except _runtime_errors() as error:
        raise InputError(
            path, f"cannot be read as a model ({_first_line(error)})", remedy
        ) from None


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: many exceptions without a common parent."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if issubclass(kind, Exception)]
    return (*own, ValueError, RuntimeError, TypeError)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]


def open_network(model: Path | None = None, device: str = "auto", threads: int = 0) -> Network:
    """Open a network; it may be called by several threads at once.

    Parameters
    ----------
    model
        ``.onnx``, ``.pth`` or ``.safetensors`` as `train` writes them; None: the bundled one.
    device
        auto, cpu, cuda, cuda:N or mps. ``.onnx`` runs on the CPU; auto takes a GPU for the others.
    threads
        For one call of ONNX Runtime; 0 takes all cores.

    Raises
    ------
    InputError
        If the file is missing, damaged, changed or no such file, the device is not there, or
        they do not fit together.
    """
    path = weights_file(model, device)
    digest = None if model else bundled_digest(path)
    if path.suffix != ".onnx":
        return TorchNetwork(path, device, digest)
    if device not in _ON_CPU:
        remedy = "Use --device cpu, or give a .pth or .safetensors file"
        raise InputError("--device", f"is {device!r} for an .onnx file", remedy)
    return OnnxNetwork(path, threads, digest)


def weights_file(model: Path | None, device: str) -> Path:
    """Return the file that is meant: `model`, or the bundled one for a device."""
    return model or (BUNDLED if device in _ON_CPU else BUNDLED.with_suffix(".safetensors"))


def bundled_digest(path: Path) -> str:
    """Return the checksum that a bundled file has to have."""
    sums = path.with_name("eyes.sha256")
    try:
        lines = (line.split() for line in sums.read_text().splitlines())
        return {name: digest for digest, name in lines}[path.name]
    except (OSError, KeyError, ValueError):
        raise InputError(sums, f"does not list {path.name}", _AGAIN) from None

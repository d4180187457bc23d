"""The network: ONNX Runtime for the bundled weights and .onnx files, torch for the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError

_AGAIN = "Install the package again, or give a --model"
BUNDLED = Path(__file__).parent / "weights" / "eyes.onnx"
_FACTS = "eye_segmentation"  # the file's metadata, as `train.export` writes it


class Network(Protocol):
    """Pictures to probabilities; may be called by several threads at once.

    Attributes
    ----------
    size
        Side of the square that a face is aligned to, in pixels.
    stride
        What the height and width of pictures have to be multiples of.
    threshold
        Probability from which a pixel is an eye.
    """

    size: int
    stride: int
    threshold: float

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn N x H x W x 3 RGB into N x H x W, 0..1."""
        ...


class OnnxNetwork:
    """A file that `python -m train export` wrote, run by ONNX Runtime on the CPU.

    Parameters
    ----------
    path
        The file.
    threads
        For one call; 0 takes all cores.
    sha256
        Its checksum, if it is known.

    Raises
    ------
    InputError
        If the file is missing, damaged, changed, or no such file.
    """

    def __init__(self, path: Path, threads: int = 0, sha256: str | None = None) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        if not path.is_file():
            raise InputError(path, "does not exist", _AGAIN)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        data = path.read_bytes()
        try:
            if sha256 and hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("it differs from the checksum that was published with it")
            self._session: Any = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            facts = json.loads(self._session.get_modelmeta().custom_metadata_map[_FACTS])
            self.size, self.stride = int(facts["input"]["size"]), int(facts["stride"])
            self.threshold = float(facts["threshold"])
        except (ValueError, KeyError, TypeError, errors.Fail, errors.InvalidProtobuf,
                errors.InvalidGraph, errors.InvalidArgument) as error:  # fmt: skip
            reason = str(error).split("\n", 1)[0][:120]
            raise InputError(path, f"cannot be read as a model ({reason})", _AGAIN) from None

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network (see `Network`)."""
        probability: npt.NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        return probability


class TorchNetwork:
    """A checkpoint of `train`, or an export, run by torch.

    Parameters
    ----------
    path
        ``.pth`` or ``.safetensors``.
    device
        auto, cpu, cuda, cuda:N or mps.

    Raises
    ------
    InputError
        If the file cannot be read, or the device is not there.
    """

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
        self.threshold = checkpoint.threshold
        self._torch, self._device = torch, resolve_device(device)
        folded = fold_batch_norm(checkpoint.network())
        self._model = checkpoint.build(to_channels_last(folded, self._device))

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network (see `Network`)."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
            found: npt.NDArray[np.float32] = self._model(batch).sigmoid()[:, 0].cpu().numpy()
        return found


def open_network(model: Path | None = None, device: str = "auto", threads: int = 0) -> Network:
    """Open the bundled network (`model` is None) or another one.

    Parameters
    ----------
    model
        ``.onnx``, ``.pth`` or ``.safetensors``.
    device
        auto, cpu, cuda, cuda:N or mps. ``.onnx`` runs on the CPU; auto takes a GPU for the others.
    threads
        For one call of ONNX Runtime; 0 takes all cores.

    Raises
    ------
    InputError
        If the file or the device are missing, or do not fit together.
    """
    on_cpu = device in {"auto", "cpu"}
    if model is None:
        path = BUNDLED if on_cpu else BUNDLED.with_suffix(".safetensors")
        digest = bundled_digest(path)
        return OnnxNetwork(path, threads, digest) if on_cpu else TorchNetwork(path, device, digest)
    if model.suffix != ".onnx":
        return TorchNetwork(model, device)
    if not on_cpu:
        remedy = "Use --device cpu, or give a .pth or .safetensors file"
        raise InputError("--device", f"is {device!r} for an .onnx file", remedy)
    return OnnxNetwork(model, threads)


def bundled_digest(path: Path) -> str:
    """Return the checksum that a bundled file has to have."""
    sums = path.with_name("eyes.sha256")
    try:
        lines = (line.split() for line in sums.read_text().splitlines())
        return {name: digest for digest, name in lines}[path.name]
    except (OSError, KeyError, ValueError):
        raise InputError(sums, f"does not list {path.name}", _AGAIN) from None

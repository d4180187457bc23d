"""The network: ONNX Runtime for the bundled weights and .onnx files, torch for the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError

BUNDLED = Path(__file__).parent / "weights" / "eyes.onnx"
_AGAIN = "Install the package again, or give a --model"
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
        self._session = open_session(path, threads, _AGAIN, sha256)
        try:
            facts = json.loads(self._session.get_modelmeta().custom_metadata_map[_FACTS])
            self.size, self.stride = int(facts["input"]["size"]), int(facts["stride"])
            self.threshold = float(facts["threshold"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(path, f"cannot be read as a model ({error})", _AGAIN) from None

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn N x H x W x 3 RGB into probabilities, N x H x W, 0..1."""
        probability: npt.NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        return probability


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
        self.threshold = checkpoint.threshold
        self._torch, self._device = torch, resolve_device(device)
        folded = fold_batch_norm(checkpoint.network())
        self._model = checkpoint.build(to_channels_last(folded, self._device))

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn N x H x W x 3 RGB into probabilities, N x H x W, 0..1."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
            found: npt.NDArray[np.float32] = self._model(batch).sigmoid()[:, 0].cpu().numpy()
        return found


Network = OnnxNetwork | TorchNetwork


def open_session(path: Path, threads: int, remedy: str, sha256: str | None = None) -> Any:
    """Open an ONNX Runtime session; an `InputError` with `remedy` if the file is unfit."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    if not path.is_file():
        raise InputError(path, "does not exist", remedy)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    data = path.read_bytes()
    try:
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("it differs from the checksum that was published with it")
        return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    except (ValueError, errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph,
            errors.InvalidArgument) as error:  # fmt: skip
        reason = str(error).split("\n", 1)[0][:120]
        raise InputError(path, f"cannot be read as a model ({reason})", remedy) from None


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
    on_cpu, digest = device in {"auto", "cpu"}, None
    if model is None:
        model = BUNDLED if on_cpu else BUNDLED.with_suffix(".safetensors")
        digest = bundled_digest(model)
    if model.suffix != ".onnx":
        return TorchNetwork(model, device, digest)
    if not on_cpu:
        remedy = "Use --device cpu, or give a .pth or .safetensors file"
        raise InputError("--device", f"is {device!r} for an .onnx file", remedy)
    return OnnxNetwork(model, threads, digest)


def bundled_digest(path: Path) -> str:
    """Return the checksum that a bundled file has to have."""
    sums = path.with_name("eyes.sha256")
    try:
        lines = (line.split() for line in sums.read_text().splitlines())
        return {name: digest for digest, name in lines}[path.name]
    except (OSError, KeyError, ValueError):
        raise InputError(sums, f"does not list {path.name}", _AGAIN) from None

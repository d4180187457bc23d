"""Weights for others as ONNX: bytes of pictures in, probabilities out (docs/onnx.md)."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from preprocess.errors import InputError
from preprocess.files import atomic_file
from preprocess.sample import SampleConfig, draw_face
from preprocess.storage import Place
from train.checkpoint import METADATA, Checkpoint
from train.data import decoding_threads
from train.model import fold_batch_norm
from train.portable import decode
from train.split import Split

ONNX_SUFFIX = ".onnx"
LEAST_IOU = 0.999  # of the masks of ONNX Runtime and torch
_OPSET = 17
_TERMS = "as the photographs it was trained on; the bundled weights: non-commercial research only"
_RULE = (
    "images: N x H x W x 3 uint8 RGB, H and W multiples of stride, any N. A face is turned and "
    "scaled into a square of side input.size by CelebA-HQ's rule; H x W may be the part of it "
    "around the eyes. probability: N x H x W float32, an eye from threshold on."
)


class _Contract(nn.Module):
    """A calibrated network from bytes, N x H x W x 3, to probabilities, N x H x W."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.permute(0, 3, 1, 2).float())
        return logits.sigmoid().squeeze(1)


@dataclass(frozen=True)
class ExportCheck:
    """ONNX Runtime against torch: largest difference of a probability, IoU of all masks."""

    samples: int
    difference: float
    iou: float


def export_onnx(checkpoint: Checkpoint, path: Path, *, half: bool = False) -> str:
    """Write a finished model as ONNX, and return the file's sha256.

    Normalisation, calibration and sigmoid are inside; batch normalisation is folded. Metadata
    holds everything that a checkpoint says of itself, the input rule and the terms. With `half`
    convolutions are stored in float16, at half the size, and computed in float32 all the same.
    """
    try:
        import onnx
    except ImportError:
        remedy = "pip install onnx, or write .safetensors"
        raise InputError(path, "needs the package onnx, which is not installed", remedy) from None
    module = _Contract(checkpoint.build(fold_batch_norm(checkpoint.network()))).eval()
    side = checkpoint.model.stride
    example = torch.zeros(1, 2 * side, 3 * side, 3, dtype=torch.uint8)
    axes, traced = {0: "n", 1: "height", 2: "width"}, BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is the older of torch's two exporters
        torch.onnx.export(
            module, (example,), traced, dynamo=False, opset_version=_OPSET,  # type: ignore[arg-type]
            input_names=["images"], output_names=["probability"],
            dynamic_axes={"images": axes, "probability": axes},
        )  # fmt: skip
    model: Any = onnx.load_from_string(traced.getvalue())
    if half:
        _halve(model)
    facts = checkpoint.facts() | {
        "stride": side, "opset": _OPSET, "rule": _RULE, "terms": _TERMS
    }  # fmt: skip
    onnx.helper.set_model_props(model, {METADATA: json.dumps(facts, sort_keys=True)})
    onnx.checker.check_model(model)
    data = model.SerializeToString(deterministic=True)
    with atomic_file(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def _halve(model: Any) -> None:
    """Keep filters as float16 and cast them to float32 in front; a runtime does so at loading."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 4:
            name, values = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for number, cast in enumerate(casts):
        model.graph.node.insert(number, cast)


@torch.inference_mode()
def check_onnx(
    checkpoint: Checkpoint, path: Path, batches: Iterable[npt.NDArray[np.uint8]]
) -> ExportCheck:
    """Run batches of pictures, N x H x W x 3 uint8 RGB, through ONNX Runtime and through torch.

    An `InputError` if the masks differ by more than `LEAST_IOU` allows.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network = _Contract(checkpoint.build())
    samples, worst, both, either = 0, 0.0, 0, 0
    for images in batches:
        (there,) = session.run(None, {"images": images})
        here = network(torch.from_numpy(images)).numpy()
        one, other = here >= checkpoint.threshold, there >= checkpoint.threshold
        samples += len(images)
        worst = max(worst, float(np.abs(here - there).max()))
        both, either = both + int((one & other).sum()), either + int((one | other).sum())
    check = ExportCheck(samples, worst, both / either if either else 1.0)
    if check.iou < LEAST_IOU:
        problem = f"masks differ from torch's: IoU {check.iou:.4f} on {samples} pictures"
        raise InputError(path, problem, f"Expected {LEAST_IOU} or more; export without --half")
    return check


def pictures(size: int, shards: Place | None, count: int = 32) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield batches of 8 pictures to try a network on: of a pack's val split, or drawn faces."""
    if shards is None:
        config = SampleConfig(count, size=size, mask_size=size)
        for at in range(0, count, 8):
            yield np.stack([draw_face(number, config).image for number in range(at, at + 8)])
        return
    split = Split.open(shards, "val")
    order = split.in_order(8)[: count // 8]
    for images, _ in decode(split, order, torch.device("cpu"), decoding_threads()):
        yield images.numpy()

"""Photograph to mask file: the script of most tutorials, and our network through ONNX Runtime."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import Figures, serve
from PIL import Image
from rulers import measure_inference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain(photos: str, out: str, threshold: float, size: int, model: str = "") -> Figures:
    """Open, convert and resize with Pillow, normalise, run, resize back, save: one by one.

    Without a model (TorchScript) the network is a plain U-Net of as many parameters as ours, of
    random weights: its speed alone counts.
    """
    import torch
    from unet import PlainUNet

    network = (torch.jit.load(model) if model else PlainUNet()).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(images)

    def segment(files: Sequence[Path]) -> None:
        for photo in files:
            image = Image.open(photo).convert("RGB")
            pixels = torch.from_numpy(np.array(image.resize((size, size))))
            pixels = pixels.permute(2, 0, 1).contiguous().float()
            if not model:  # ours does it itself
                pixels = (pixels / 255 - mean) / std
            marked = (run(pixels[None]).sigmoid()[0, 0] > threshold).numpy().astype(np.uint8)
            mask = Image.fromarray(255 * marked).resize(image.size, Image.Resampling.NEAREST)
            mask.save(Path(out, f"{photo.stem}.png"))

    Path(out).mkdir(parents=True, exist_ok=True)
    files = sorted(Path(photos).glob("*.jpg"))
    return measure_inference(
        files, segment, segment, lambda batch: partial(run, torch.zeros(batch, 3, size, size))
    )


def onnx(photos: str, out: str, threshold: float, size: int, model: str) -> Figures:
    """Run our network through ONNX Runtime at its best settings, decoding and resizing as ours.

    Pillow writes the PNG at level 1, in a third of OpenCV's time with run lengths. In a folder each
    core has photographs of its own and a session of one thread; for one photograph all cores work
    in each operator (https://onnxruntime.ai/docs/performance/tune-performance/threading.html).
    """
    import cv2
    import simplejpeg

    cores = len(os.sched_getaffinity(0))
    own = threading.local()

    def segment_one(session: Any, photo: Path) -> None:
        data = photo.read_bytes()
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size)
        small = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)
        pixels = small.transpose(2, 0, 1)[None].astype(np.float32)
        (logits,) = session.run(None, {"images": np.ascontiguousarray(pixels)})
        large = cv2.resize(1 / (1 + np.exp(-logits[0, 0])), (width, height))
        marked = (large >= threshold).view(np.uint8) * np.uint8(255)
        Image.fromarray(marked).save(Path(out, f"{photo.stem}.png"), compress_level=1)

    def segment(files: Sequence[Path]) -> None:
        for photo in files:
            segment_one(sessions[0], photo)

    def open_own() -> None:
        own.session = open_session(model, 1)

    def segment_shared(files: Sequence[Path]) -> None:
        sessions.clear()  # its spinning threads would take a core
        cv2.setNumThreads(1)
        list(pool.map(lambda photo: segment_one(own.session, photo), files))

    def network(batch: int) -> Callable[[], Any]:
        images = np.zeros((batch, 3, size, size), np.float32)
        return lambda: sessions[0].run(None, {"images": images})

    Path(out).mkdir(parents=True, exist_ok=True)
    sessions = [open_session(model, cores)]
    pool = ThreadPoolExecutor(cores, initializer=open_own)
    files = sorted(Path(photos).glob("*.jpg"))
    return measure_inference(files, segment, segment_shared, network)


def open_session(model: str, threads: int) -> Any:
    """Open a network for so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def export(script: str, size: int, model: str) -> Figures:
    """Write a TorchScript network as ONNX, any number of pictures a batch."""
    import torch

    torch.onnx.export(
        torch.jit.load(script), (torch.zeros(2, 3, size, size),), model, dynamo=False,
        opset_version=17, input_names=["images"], output_names=["logits"],
        dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    return {"done": 1}


if __name__ == "__main__":
    serve((plain, onnx, export))

"""The same network through ONNX Runtime, at its best settings: file to mask file.

    python tests/bench/peers/onnx_infer.py --export net.ts --model net.onnx
    python tests/bench/peers/onnx_infer.py --photos FOLDER --out FOLDER --model net.onnx

simplejpeg decodes straight to the wanted size in the DCT domain, as ours; Pillow writes
the PNG at level 1 (a third of OpenCV's time with run lengths). --layout says who gets the cores:
"operators" runs one photograph after the other through a session of all cores; "photographs" gives
each core a thread with a session of one thread
(https://onnxruntime.ai/docs/performance/tune-performance/threading.html).
"""
# ruff: noqa: E402

from __future__ import annotations

import json
import sys
import time

START = time.perf_counter()  # importing is part of starting

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import simplejpeg
from PIL import Image

SIZE = 256
MEAN = np.array((123.675, 116.28, 103.53), np.float32)
SCALE = 1 / np.array((58.395, 57.12, 57.375), np.float32)


def export(script: Path, model: Path) -> None:
    """Write a TorchScript network as ONNX, any number of pictures a batch."""
    import torch

    torch.onnx.export(
        torch.jit.load(str(script)), (torch.zeros(2, 3, SIZE, SIZE),), str(model), dynamo=False,
        opset_version=17, input_names=["images"], output_names=["logits"],
        dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip


def session(model: Path, threads: int) -> Any:
    """Open the network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])


def segment(network: Any, photo: Path, mask: Path, threshold: float) -> None:
    """Write the mask of a photograph."""
    data = photo.read_bytes()
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=SIZE, min_width=SIZE)
    small = cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    pixels = ((small - MEAN) * SCALE).transpose(2, 0, 1)[None]
    (logits,) = network.run(None, {"images": np.ascontiguousarray(pixels)})
    probability = 1 / (1 + np.exp(-logits[0, 0]))
    large = cv2.resize(probability, (width, height))
    marked = (large >= threshold).view(np.uint8) * np.uint8(255)
    Image.fromarray(marked).save(mask, compress_level=1)


def milliseconds(network: Any, batch: int) -> float:
    """Time the network alone, per picture."""
    images = np.zeros((batch, 3, SIZE, SIZE), np.float32)
    for _ in range(3):
        network.run(None, {"images": images})
    times = []
    for _ in range(max(3, 16 // batch)):
        started = time.perf_counter()
        network.run(None, {"images": images})
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times)) / batch


@click.command()
@click.option("--export", "script", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), required=True)
@click.option("--photos", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--threshold", default=0.5)
@click.option("--latency", default=8, help="Photographs that are timed one by one.")
@click.option("--layout", type=click.Choice(["operators", "photographs"]), default="operators")
def main(
    script: Path | None, model: Path, photos: Path, out: Path, threshold: float, latency: int,
    layout: str,
) -> None:  # fmt: skip
    """Segment a folder; print images/s, latency, start-up and the network's time."""
    if script:
        export(script, model)
        return
    out.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    network = session(model, cores or 1)
    files = sorted(photos.glob("*.jpg"))
    segment(network, files[0], out / "first.png", threshold)
    first = time.perf_counter() - START
    times = []
    for file in files[:4]:  # TorchScript and malloc take a few to settle
        segment(network, file, out / f"{file.stem}.png", threshold)
    for file in (files * latency)[:latency]:
        started = time.perf_counter()
        segment(network, file, out / f"{file.stem}.png", threshold)
        times.append(time.perf_counter() - started)
    alone = {f"network_{batch}": milliseconds(network, batch) for batch in (1, 16)}
    if layout == "operators":
        started = time.perf_counter()
        for file in files:
            segment(network, file, out / f"{file.stem}.png", threshold)
    else:
        cv2.setNumThreads(1)
        del network  # its spinning threads would take a core
        own = threading.local()

        def open_own() -> None:
            own.network = session(model, 1)

        def work(file: Path) -> None:
            segment(own.network, file, out / f"{file.stem}.png", threshold)

        with ThreadPoolExecutor(cores, initializer=open_own) as pool:
            list(pool.map(work, files[: 2 * (cores or 1)]))  # opens the sessions
            started = time.perf_counter()
            list(pool.map(work, files))
    spent = time.perf_counter() - started
    json.dump({
        "images_per_second": len(files) / spent, "latency": 1e3 * float(np.median(times)),
        "start": first, **alone,
    }, sys.stdout)  # fmt: skip


if __name__ == "__main__":
    main()

"""The inference script of most tutorials: one photograph after the other, file to mask file.

    python tests/bench/peers/plain_infer.py --photos FOLDER --out FOLDER [--model net.ts]

Pillow opens, converts and resizes; normalise; network in float32, contiguous, without gradients;
sigmoid above the threshold; Pillow resizes the mask back and saves it. Without --model the network
is a plain U-Net of as many parameters as ours (random weights: its speed alone counts); else a
TorchScript file.
"""
# ruff: noqa: E402

from __future__ import annotations

import json
import sys
import time

START = time.perf_counter()  # importing is part of starting

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

SIZE = 256
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def load(model: Path | None) -> Any:
    """Return the network."""
    if model:
        return torch.jit.load(str(model)).eval()
    from plain_unet import PlainUNet

    return PlainUNet().eval()


def segment(network: Any, photo: Path, mask: Path, threshold: float) -> None:
    """Write the mask of a photograph."""
    image = Image.open(photo).convert("RGB")
    small = image.resize((SIZE, SIZE))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous().float() / 255
    pixels = (pixels - MEAN[:, None, None]) / STD[:, None, None]
    with torch.no_grad():
        probability = network(pixels[None]).sigmoid()[0, 0]
    marked = (probability > threshold).numpy().astype(np.uint8) * 255
    Image.fromarray(marked).resize(image.size, Image.Resampling.NEAREST).save(mask)


def milliseconds(network: Any, batch: int) -> float:
    """Time the network alone, per picture."""
    images = torch.zeros(batch, 3, SIZE, SIZE)
    with torch.no_grad():
        for _ in range(3):
            network(images)
        times = []
        for _ in range(max(3, 16 // batch)):
            started = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times)) / batch


@click.command()
@click.option("--photos", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--model", type=click.Path(path_type=Path))
@click.option("--threshold", default=0.5)
@click.option("--latency", default=8, help="Photographs that are timed one by one.")
def main(photos: Path, out: Path, model: Path | None, threshold: float, latency: int) -> None:
    """Segment a folder; print images/s, latency, start-up and the network's time."""
    out.mkdir(parents=True, exist_ok=True)
    network = load(model)
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
    started = time.perf_counter()
    for file in files:
        segment(network, file, out / f"{file.stem}.png", threshold)
    spent = time.perf_counter() - started
    json.dump({
        "images_per_second": len(files) / spent, "latency": 1e3 * float(np.median(times)),
        "start": first, "network_1": milliseconds(network, 1),
        "network_16": milliseconds(network, 16),
    }, sys.stdout)  # fmt: skip


if __name__ == "__main__":
    main()

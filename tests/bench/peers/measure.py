"""What all loaders of the contest share: the ruler, and decoders. Needs torch and numpy only.

A loader is a function that yields one epoch as (images, masks): N x 3 x 256 x 256 float32,
normalised, in any memory format, and masks of N x 256 x 256 values, float32 as well. The first
epoch warms up and is summed in full, which shows that all contenders deliver the same pixels;
then whole epochs are timed, and one value of every page of every batch is read.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

BATCH, SIZE = 16, 256
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_PAGE = 1024  # float32 values
Batch = tuple[torch.Tensor, torch.Tensor]
Pair = tuple[np.ndarray, np.ndarray]
# Of a whole row of pixels: three numbers at a time would keep the processor's vectors idle.
_BIAS = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)]).repeat(SIZE)
_SCALE = torch.tensor([1 / s for s in STD]).repeat(SIZE)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that every peer takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", type=Path, required=True, help="What the contest prepared.")
    options.add_argument("--prepare", action="store_true", help="Write the peer's own format.")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--least", type=float, default=1.5, help="Seconds to measure.")
    options.add_argument("--decoder", choices=("pillow", "turbo"), default="turbo")
    options.add_argument("--normalise", choices=("worker", "main"), default="main")
    return options


def measure(
    epoch: Callable[[int], Iterator[Batch]], least: float, shape: Sequence[int] = (3, SIZE, SIZE)
) -> None:
    """Time whole epochs for at least so many seconds; print the figures as JSON."""
    figures = _first(epoch(0), tuple(shape))
    pictures, number, start = 0, 0, time.perf_counter()
    while time.perf_counter() - start < least:
        number += 1
        for images, masks in epoch(number):
            pictures += len(images)
            _touch(images)
            _touch(masks)
    figures["images"] = pictures / (time.perf_counter() - start)
    print(json.dumps(figures))


def _first(batches: Iterator[Batch], shape: tuple[int, ...]) -> dict[str, float]:
    level, eyes, pictures = 0.0, 0.0, 0
    for images, masks in batches:
        if images.shape[1:] != shape or images.dtype != torch.float32:
            raise SystemExit(f"images are {tuple(images.shape)} {images.dtype}, not N x {shape}")
        if masks.numel() != len(images) * shape[1] * shape[2] or masks.dtype != torch.float32:
            raise SystemExit(f"masks are {tuple(masks.shape)} {masks.dtype}")
        level += float(images.mean(dtype=torch.float64)) * len(images)
        eyes += float((masks > 0.5).double().mean()) * len(images)
        pictures += len(images)
    return {"level": level / pictures, "eyes": eyes / pictures, "pictures": pictures}


def _touch(values: torch.Tensor) -> float:
    """Read one value a page, whatever the order of the axes."""
    return float(torch.as_strided(values, (values.numel() // _PAGE,), (_PAGE,)).sum())


def decode_pillow(jpg: bytes, png: bytes) -> Pair:
    """Decode with Pillow: H x W x 3 and H x W, uint8, 0 where no eye is."""
    from PIL import Image

    with Image.open(io.BytesIO(jpg)) as image, Image.open(io.BytesIO(png)) as label:
        return np.asarray(image.convert("RGB")), np.asarray(label.convert("L"))


def decode_turbo(jpg: bytes, png: bytes) -> Pair:
    """Decode with libjpeg-turbo (simplejpeg) and OpenCV, the fastest of PyPI that we know."""
    import cv2
    import simplejpeg

    label = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return simplejpeg.decode_jpeg(jpg, "RGB"), label


DECODERS = {"pillow": decode_pillow, "turbo": decode_turbo}


def to_float(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    """Normalise N x H x W x 3 levels, viewed as N x 3 x H x W (channels_last); binarise labels."""
    rows = torch.addcmul(_BIAS, images.flatten(2).to(torch.float32), _SCALE)
    return rows.view(images.shape).permute(0, 3, 1, 2), (labels > 0).to(torch.float32)


def stack(pairs: Sequence[Pair]) -> Batch:
    """Collate to levels: a quarter of the bytes of floats go from process to process."""
    images, labels = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def stack_float(pairs: Sequence[Pair]) -> Batch:
    """Collate to floats."""
    return to_float(*stack(pairs))


def collate(options: argparse.Namespace) -> Callable[[Sequence[Pair]], Batch]:
    """Collate function of a data loader's workers."""
    return stack if options.normalise == "main" else stack_float


def finished(batches: Iterator[Batch], options: argparse.Namespace) -> Iterator[Batch]:
    """Normalise in this process what the workers left as levels."""
    for images, labels in batches:
        yield to_float(images, labels) if options.normalise == "main" else (images, labels)


def read_pairs(data: Path) -> list[tuple[str, bytes, bytes]]:
    """Read the packed bytes (key, jpg, png), for peers that store them in their own format."""
    return [
        (path.stem, path.read_bytes(), path.with_suffix(".png").read_bytes())
        for path in sorted((data / "files").glob("*.jpg"))
    ]

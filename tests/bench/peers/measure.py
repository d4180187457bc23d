"""What all loaders of the contest share: the ruler, and decoders. Needs torch and numpy only.

A loader is a function that yields one epoch as (images, masks): what goes to the device, bytes:
N x 256 x 256 x 3 uint8 and N x 256 x 256 uint8, 0 where no eye is. The first epoch warms up and is
summed in full, which shows that all contenders deliver the same pixels; then whole epochs are
timed, and one value of every page of every batch is read.
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
_PAGE = 4096
Batch = tuple[torch.Tensor, torch.Tensor]
Pair = tuple[np.ndarray, np.ndarray]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that every peer takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", type=Path, required=True, help="What the contest prepared.")
    options.add_argument("--prepare", action="store_true", help="Write the peer's own format.")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--least", type=float, default=1.5, help="Seconds to measure.")
    options.add_argument("--decoder", choices=("pillow", "turbo"), default="turbo")
    return options


def measure(epoch: Callable[[int], Iterator[Batch]], least: float) -> None:
    """Time whole epochs for at least so many seconds; print the figures as JSON."""
    figures = _first(epoch(0))
    pictures, number, start = 0, 0, time.perf_counter()
    while time.perf_counter() - start < least:
        number += 1
        for images, masks in epoch(number):
            pictures += len(images)
            _touch(images)
            _touch(masks)
    figures["images"] = pictures / (time.perf_counter() - start)
    print(json.dumps(figures))


def _first(batches: Iterator[Batch]) -> dict[str, float]:
    level, eyes, pictures = 0.0, 0.0, 0
    for images, masks in batches:
        if images.shape[1:] != (SIZE, SIZE, 3) or images.dtype != torch.uint8:
            raise SystemExit(f"images are {tuple(images.shape)} {images.dtype}")
        if masks.numel() != len(images) * SIZE**2 or masks.dtype != torch.uint8:
            raise SystemExit(f"masks are {tuple(masks.shape)} {masks.dtype}")
        level += float(images.double().mean()) * len(images)
        eyes += float((masks > 0).double().mean()) * len(images)
        pictures += len(images)
    return {"level": level / pictures, "eyes": eyes / pictures, "pictures": pictures}


def _touch(values: torch.Tensor) -> float:
    """Read one value a page."""
    return float(values.reshape(-1)[::_PAGE].sum())


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


def stack(pairs: Sequence[Pair]) -> Batch:
    """Collate to a batch of bytes."""
    images, labels = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def read_pairs(data: Path) -> list[tuple[str, bytes, bytes]]:
    """Read the packed bytes (key, jpg, png), for peers that store them in their own format."""
    return [
        (path.stem, path.read_bytes(), path.with_suffix(".png").read_bytes())
        for path in sorted((data / "files").glob("*.jpg"))
    ]

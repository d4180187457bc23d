"""The portable decoder: libjpeg-turbo and zlib in threads, on any platform.

`train.dali` gives the same bytes on a CPU; a test holds them equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from preprocess.errors import InputError
from preprocess.image import decode_rgb
from preprocess.mask import decode_label
from train.device import send
from train.split import Encoded, Rows, Split

_AHEAD = 2  # batches in the making besides the one that is handed out
_SHARES = 2  # tasks a thread and batch: each costs as much as 50 microseconds of decoding
Pixels = npt.NDArray[np.uint8]


def decode(
    split: Split, batches: Sequence[Rows], device: torch.device, threads: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode samples (see `train.data.Decode`); an `InputError` names one that is unreadable."""
    waiting: deque[tuple[Pixels, Pixels, list[Future[None]]]] = deque()

    def done() -> tuple[Tensor, Tensor]:
        images, masks, jobs = waiting.popleft()
        for job in jobs:
            job.result()
        return send(torch.from_numpy(images), device), send(torch.from_numpy(masks), device)

    with ThreadPoolExecutor(threads) as pool:
        for rows, samples in zip(batches, split.read_batches(batches), strict=True):
            shape = (len(rows), split.size, split.size)
            images, masks = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
            step = -(-len(rows) // (_SHARES * threads))
            parts = (slice(at, at + step) for at in range(0, len(rows), step))
            jobs = [pool.submit(_fill, samples[p], images[p], masks[p]) for p in parts]
            waiting.append((images, masks, jobs))
            if len(waiting) > _AHEAD:
                yield done()
        while waiting:
            yield done()


def _fill(samples: list[Encoded], images: Pixels, masks: Pixels) -> None:
    for sample, image, mask in zip(samples, images, masks, strict=True):
        image[...], mask[...] = decode_sample(sample, len(mask))


def decode_sample(sample: Encoded, size: int) -> tuple[Pixels, Pixels]:
    """Decode a packed pair to size x size x 3 RGB and a size x size mask of 0 and 255.

    An `InputError` if one of them is no picture, or of another size.
    """
    image, mask = decode_rgb(sample.jpg, sample.name), decode_mask(sample)
    if not image.shape[:2] == mask.shape == (size, size):
        problem = f"image is {image.shape}, mask {mask.shape}, the pack's size {size}"
        raise InputError(sample.name, problem, "Pack again: `make shards`")
    return image, mask


def decode_mask(sample: Encoded) -> Pixels:
    """Decode the label map of a packed pair to a mask of 0 (no eye) and 255."""
    label = decode_label(sample.png, sample.name)
    return np.asarray(cv2.threshold(label, 0, 255, cv2.THRESH_BINARY)[1], np.uint8)

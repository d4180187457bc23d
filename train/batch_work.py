"""Batches in the making: threads put samples into their rows, decoded, augmented, normalised.

What both loaders do on the host: OpenCV and NumPy release Python's lock, and a picture stays in a
core's cache from its pixels to its row of the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO

import cv2
import numpy as np
import numpy.typing as npt
import torch

from preprocess.errors import InputError
from preprocess.mask import decode_label
from train.augment import Draw, augment
from train.batch import Batch, LoaderConfig
from train.decode import decode_sample, label_to_mask, normalise_into
from train.order import EpochOrder

_SHARES = 2  # tasks a thread and batch: each task costs as much as 50 microseconds of decoding
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RawSample:
    """An encoded sample; without bytes where they are not needed."""

    name: str
    key: str
    jpg: bytes | None = None
    png: bytes | None = None


def read_raw(order: EpochOrder, config: LoaderConfig, *, jpg: bool = True) -> Iterator[RawSample]:
    """Yield the samples of an epoch in order; the bytes only of those that are not in the cache.

    Parameters
    ----------
    order, config
        Which samples, and where decoded ones are kept.
    jpg
        Whether the photograph is wanted, or the label map alone.

    Raises
    ------
    InputError
        Where a shard lacks a component.
    """
    for segment in order.segments:
        with ExitStack() as stack:
            file: FileIO | None = None
            for entry in segment.entries:
                name = f"{segment.shard}, sample {entry.key}"
                if config.cache and entry.key in config.cache:
                    yield RawSample(name, entry.key)
                    continue
                if file is None:
                    file = stack.enter_context(segment.shard.open("rb", buffering=0))
                there = {extension: place for extension, *place, _ in entry.components}
                parts: dict[str, bytes] = {}
                for extension in ("jpg", "png"):
                    if extension not in there:
                        problem = f"sample {entry.key!r} has no {extension}"
                        raise InputError(segment.shard, problem, "Pack again: `make shards`")
                    if extension == "png" or jpg:
                        offset, length = there[extension]
                        file.seek(offset)
                        parts[extension] = file.read(length)
                yield RawSample(name, entry.key, **parts)


@dataclass(frozen=True)
class BatchWork:
    """A batch in the making.

    Attributes
    ----------
    samples
        What its rows are made of.
    pictures
        N x size x size x 3, decoded already; None decodes each sample's bytes.
    drawn
        Random numbers of the augmentation; None leaves the pictures as they are.
    images, masks
        The rows: N x H x W x 3 and N x H x W, float32.
    """

    config: LoaderConfig
    samples: list[RawSample]
    pictures: Pixels | None
    drawn: Draw | None
    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]

    @classmethod
    def on(
        cls, config: LoaderConfig, samples: list[RawSample], pictures: Pixels | None,
        drawn: Draw | None,
    ) -> BatchWork:  # fmt: skip
        """Make room for a batch."""
        size, window = config.spec.size, config.window
        shape = (len(samples), *((window.height, window.width) if window else (size, size)))
        images = np.empty((*shape, 3), np.float32)
        return cls(config, samples, pictures, drawn, images, np.empty(shape, np.float32))

    def shares(self) -> list[range]:
        """Cut the rows into tasks for the threads."""
        rows = len(self.samples)
        step = -(-rows // (_SHARES * self.config.threads))
        return [range(at, min(rows, at + step)) for at in range(0, rows, step)]

    def fill(self, rows: range) -> None:
        """Take samples to their rows.

        Raises
        ------
        InputError
            Where one cannot be decoded, or is of another size.
        """
        for row in rows:
            image, mask = self._decoded(row)
            if self.drawn is not None:
                image, mask = augment(image, mask, self.drawn, row, self.config.window)
            normalise_into(self.images[row], image, self.config.spec)
            np.copyto(self.masks[row], mask >> 7)  # 128 and above

    def _decoded(self, row: int) -> tuple[Pixels, Pixels]:
        raw, cache = self.samples[row], self.config.cache
        if raw.png is None:
            assert cache
            image, mask = cache.get(raw.key)
            return image, mask[:, :, 0]
        if raw.jpg is not None:
            image, mask = decode_sample(raw.jpg, raw.png, raw.name)
        else:
            assert self.pictures is not None
            image, mask = self.pictures[row], label_to_mask(decode_label(raw.png, raw.name))
        size = self.config.spec.size
        if image.shape != (size, size, 3) or mask.shape != image.shape[:2]:
            problem = f"image is {image.shape}, mask {mask.shape}"
            raise InputError(raw.name, problem, "Pack again: `make shards`")
        if cache:
            cache.put(raw.key, image, mask)
        return image, mask

    def batch(self) -> Batch:
        """Hand the filled batch to its device."""
        device = self.config.device
        images = torch.from_numpy(self.images).permute(0, 3, 1, 2)
        masks = torch.from_numpy(self.masks).unsqueeze(1)
        if device.type == "cuda":
            images, masks = images.pin_memory(), masks.pin_memory()
            images, masks = (t.to(device, non_blocking=True) for t in (images, masks))
        return Batch(images, masks, tuple(sample.key for sample in self.samples))


def finish(works: Iterator[BatchWork], threads: int, ahead: int) -> Iterator[Batch]:
    """Yield the batches of `works`, filled by threads ahead of whoever takes them, in order.

    Parameters
    ----------
    works
        Asked for the next ones while threads fill.
    threads
        How many.
    ahead
        How many batches may be in the making besides the one that is handed out.
    """
    # Pictures are shared out already: OpenCV's own threads would only wait for each other.
    cv2.setNumThreads(1)
    waiting: deque[tuple[BatchWork, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for work in works:
            waiting.append((work, [pool.submit(work.fill, rows) for rows in work.shares()]))
            if len(waiting) > ahead:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())


def _done(work: BatchWork, jobs: list[Future[None]]) -> Batch:
    for job in jobs:
        job.result()
    return work.batch()

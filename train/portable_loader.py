"""The portable loader: the decode path of `preprocess.image` in threads, on any platform.

Gives the same batches as the DALI loader. A pool of threads takes each sample from its bytes to
its place in the batch, ahead of the network: libjpeg-turbo, OpenCV and NumPy release Python's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt
import torch

from preprocess.errors import InputError
from train.augment import Draw, augment
from train.batch import Batch, LoaderConfig
from train.batch_draw import BatchDraw
from train.decode import decode_sample, normalise_into
from train.order import EpochOrder

_AHEAD = 2
_SHARES = 2  # tasks a thread and batch: each task costs as much as 50 microseconds of decoding


class PortableLoader:
    """Batches through libjpeg-turbo and OpenCV (see `train.loader.Loader`)."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self.samples = config.order.samples
        self.steps = config.order.steps
        self._draw = BatchDraw(config)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0.

        Raises
        ------
        InputError
            Where a shard lacks a component, or holds one that cannot be decoded.
        """
        order = self._config.order.epoch(epoch)
        samples = _read(order, self._config)
        steps = iter(enumerate(order.batches))
        ahead: deque[tuple[_Work, list[Future[None]]]] = deque()
        # Pictures are shared out already: OpenCV's own threads would only wait for each other.
        cv2.setNumThreads(1)
        with ThreadPoolExecutor(self._config.threads) as pool:
            while True:
                for step, keys in islice(steps, _AHEAD + 1 - len(ahead)):
                    drawn = self._draw(order, step, len(keys))
                    work = _Work.on(self._config, keys, drawn)
                    rows = list(enumerate(islice(samples, len(keys))))
                    share = -(-len(rows) // (_SHARES * self._config.threads))
                    parts = (rows[at : at + share] for at in range(0, len(rows), share))
                    ahead.append((work, [pool.submit(work.fill, part) for part in parts]))
                if not ahead:
                    return
                work, jobs = ahead.popleft()
                for job in jobs:
                    job.result()
                yield work.batch()


@dataclass(frozen=True)
class _Raw:
    """An encoded sample; without bytes where the cache has it."""

    name: str
    jpg: bytes | None = None
    png: bytes | None = None


@dataclass(frozen=True)
class _Work:
    """A batch in the making: each thread fills rows of it."""

    config: LoaderConfig
    keys: tuple[str, ...]
    drawn: Draw | None
    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]

    @classmethod
    def on(cls, config: LoaderConfig, keys: tuple[str, ...], drawn: Draw | None) -> _Work:
        size, window = config.spec.size, config.window
        shape = (len(keys), *((window.height, window.width) if window else (size, size)))
        images = np.empty((*shape, 3), np.float32)
        return cls(config, keys, drawn, images, np.empty(shape, np.float32))

    def fill(self, samples: list[tuple[int, _Raw]]) -> None:
        """Decode, augment and normalise samples into their rows."""
        for row, raw in samples:
            self._fill_row(row, raw)

    def _fill_row(self, row: int, raw: _Raw) -> None:
        config, key = self.config, self.keys[row]
        if raw.jpg is not None and raw.png is not None:
            image, mask = decode_sample(raw.jpg, raw.png, raw.name)
            size = config.spec.size
            if image.shape != (size, size, 3) or mask.shape != image.shape[:2]:
                problem = f"image is {image.shape}, mask {mask.shape}"
                raise InputError(raw.name, problem, "Pack again: `make shards`")
            if config.cache:
                config.cache.put(key, image, mask)
        else:
            assert config.cache
            image, mask = config.cache.get(key)
            mask = mask[:, :, 0]
        if self.drawn is not None:
            image, mask = augment(image, mask, self.drawn, row, config.window)
        normalise_into(self.images[row], image, config.spec)
        np.copyto(self.masks[row], mask >> 7)  # 128 and above

    def batch(self) -> Batch:
        """Hand the filled batch to its device."""
        device = self.config.device
        images = torch.from_numpy(self.images).permute(0, 3, 1, 2)
        masks = torch.from_numpy(self.masks).unsqueeze(1)
        if device.type == "cuda":
            images, masks = images.pin_memory(), masks.pin_memory()
            images, masks = (t.to(device, non_blocking=True) for t in (images, masks))
        return Batch(images, masks, self.keys)


def _read(order: EpochOrder, config: LoaderConfig) -> Iterator[_Raw]:
    """Yield the samples of an epoch in order; the bytes only of those that are not in the cache."""
    for segment in order.segments:
        with ExitStack() as stack:
            file: FileIO | None = None
            for entry in segment.entries:
                name = f"{segment.shard}, sample {entry.key}"
                if config.cache and entry.key in config.cache:
                    yield _Raw(name)
                    continue
                if file is None:
                    file = stack.enter_context(segment.shard.open("rb", buffering=0))
                there = {extension: place for extension, *place, _ in entry.components}
                parts = []
                for extension in ("jpg", "png"):
                    if extension not in there:
                        problem = f"sample {entry.key!r} has no {extension}"
                        raise InputError(segment.shard, problem, "Pack again: `make shards`")
                    offset, length = there[extension]
                    file.seek(offset)
                    parts.append(file.read(length))
                yield _Raw(name, *parts)

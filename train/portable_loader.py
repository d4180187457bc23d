"""The portable loader: webdataset and the decode path of `preprocess.image`, on any platform.

Gives the same batches as the DALI loader (noise patterns apart). Pictures are decoded by a pool
of threads, a batch ahead of the network: libjpeg-turbo and OpenCV release Python's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from preprocess.errors import InputError
from preprocess.stream import stream_samples
from train.augment import Draw, augment
from train.batch import Batch, LoaderConfig
from train.batch_draw import BatchDraw
from train.decode import binarise, decode_sample, normalise
from train.order import Segment

_AHEAD = 2
Pair = tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], ...]


class PortableLoader:
    """Batches through webdataset, Pillow and libjpeg-turbo (see `train.loader.Loader`)."""

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
            Where a shard lacks a sample or a component, or holds one that cannot be decoded.
        """
        order = self._config.order.epoch(epoch)
        samples = (pair for segment in order.segments for pair in _read_segment(segment))
        steps = iter(enumerate(zip(order.batches, order.first_rows, strict=True)))
        ahead: deque[tuple[tuple[str, ...], list[Future[Pair]]]] = deque()
        with ThreadPoolExecutor(self._config.threads) as pool:
            while True:
                for step, (keys, first) in islice(steps, _AHEAD + 1 - len(ahead)):
                    work = Decoder(
                        self._config,
                        self._draw(order, step, len(keys)),
                        (epoch, step, first),
                    )
                    jobs = [
                        pool.submit(work, row, *parts)
                        for row, parts in enumerate(islice(samples, len(keys)))
                    ]
                    ahead.append((keys, jobs))
                if not ahead:
                    return
                keys, jobs = ahead.popleft()
                yield self._collate(keys, [job.result() for job in jobs])

    def _collate(self, keys: tuple[str, ...], pairs: list[Pair]) -> Batch:
        images = normalise(np.stack([image for image, _ in pairs]), self._config.spec)
        masks = binarise(np.stack([mask for _, mask in pairs]))
        device = self._config.device
        if device.type == "cuda":
            images, masks = images.pin_memory(), masks.pin_memory()
        return Batch(
            images.to(device, non_blocking=True), masks.to(device, non_blocking=True), keys
        )


class Decoder:
    """Decodes and augments the samples of one batch."""

    def __init__(
        self, config: LoaderConfig, numbers: Draw | None, place: tuple[int, int, int]
    ) -> None:
        self._config, self._numbers = config, numbers
        self._epoch, self._step, self._first = place

    def __call__(self, row: int, name: str, jpg: bytes, png: bytes) -> Pair:
        """Return image and mask of one sample, row `row` of this process's batch."""
        image, mask = decode_sample(jpg, png, name)
        size = self._config.spec.size
        if image.shape != (size, size, 3) or mask.shape != image.shape[:2]:
            problem = f"image is {image.shape}, mask {mask.shape}"
            raise InputError(name, problem, "Pack again: `make shards`")
        if self._numbers is not None:
            seed = (self._config.order.seed, self._epoch, self._step, self._first + row)
            pattern = hash(seed) & 0xFFFFFFFF
            image, mask = augment(image, mask, self._numbers, row, pattern, self._config.window)
        return image, mask


def _read_segment(segment: Segment) -> Iterator[tuple[str, bytes, bytes]]:
    """Read a shard with webdataset and yield (name, jpg, png) in the segment's order.

    A shard is read from start to end, as it would be from a pipe or a network; the encoded
    samples of the segment (some 25 MB a thousand) wait in memory for their turn.
    """
    wanted = {entry.key for entry in segment.entries}
    found: dict[str, tuple[bytes, bytes]] = {}
    for sample in stream_samples(segment.shard):
        key = sample["__key__"]
        if key in wanted:
            for extension in ("jpg", "png"):
                if extension not in sample:
                    problem = f"sample {key!r} has no {extension}"
                    raise InputError(segment.shard, problem, "Pack again: `make shards`")
            found[key] = sample["jpg"], sample["png"]
    for entry in segment.entries:
        if entry.key not in found:
            problem = f"sample {entry.key!r} stands in the index, but not in the shard"
            raise InputError(segment.shard, problem, "Pack again: `make shards`")
        yield f"{segment.shard}, sample {entry.key}", *found.pop(entry.key)

"""The DALI loader: read, decode, augment and normalise in one graph.

With a CUDA device the JPEGs are decoded by `mixed` (on the GPU, by its JPEG engine where it has
one) and everything after runs there; without one the same graph runs on DALI's CPU backend. The
order of samples is ours, not DALI's: a temporary index a shard lists the samples of the epoch.
A fresh graph an epoch costs 5 to 25 ms on the CPU, and buys a loader without state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from preprocess.errors import InputError
from preprocess.shards import format_index, read_samples
from train.augment import Draw
from train.batch import Batch, LoaderConfig
from train.batch_draw import BatchDraw
from train.config import Window
from train.decode import InputSpec, decode_sample
from train.order import EpochOrder

_COMPONENTS = ("jpg", "png")


class DaliLoader:
    """Batches through NVIDIA DALI (see `train.loader.Loader`)."""

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
            Where a shard lacks a component or holds one that cannot be decoded.
        """
        config, order = self._config, self._config.order.epoch(epoch)
        if not order.batches:
            return
        gpu = config.device.type == "cuda"
        stream = torch.cuda.current_stream(config.device) if gpu else None
        with TemporaryDirectory(prefix="eyes-index-") as folder:
            paths, indexes = _write_indexes(order, Path(folder))
            try:
                pipeline = self._build(paths, indexes, order, epoch)
                for keys in order.batches:
                    images, masks = pipeline.run(stream)
                    yield Batch(
                        _as_tensor(images)[: len(keys)], _as_tensor(masks)[: len(keys)], keys
                    )
            except RuntimeError:
                _raise_for_bad_sample(order)
                raise

    def _build(self, paths: list[str], indexes: list[str], order: EpochOrder, epoch: int) -> Any:
        config = self._config
        gpu = config.device.type == "cuda"
        rows = len(order.batches[0])

        def numbers(step: int) -> list[np.ndarray[Any, Any]]:
            step = min(step, len(order.batches) - 1)
            drawn = self._draw(epoch, step, order.first_rows[step], order.batches[step], rows)
            return [getattr(drawn, name) for name in _drawn_names(config.window)]

        pipeline = _graph(
            paths, indexes, config.spec, gpu, numbers if self._draw.on else None, config.window,
            batch_size=rows,
            num_threads=config.threads,
            device_id=(config.device.index or 0) if gpu else None,
            prefetch_queue_depth=2,
            seed=(config.order.seed * 1_000_003 + epoch) * 1_009 + config.order.rank,
        )  # fmt: skip
        pipeline.build()
        return pipeline


def _write_indexes(order: EpochOrder, folder: Path) -> tuple[list[str], list[str]]:
    """Write an index for each segment; return the shards and the indexes, as DALI wants them."""
    paths, indexes = [], []
    for number, segment in enumerate(order.segments):
        lines = []
        for entry in segment.entries:
            there = {extension for extension, *_ in entry.components}
            for extension in _COMPONENTS:
                if extension not in there:
                    problem = f"sample {entry.key!r} has no {extension}"
                    raise InputError(segment.shard, problem, "Pack again: `make shards`")
            lines.append(entry.line(_COMPONENTS))
        index = folder / f"{number}.idx"
        index.write_bytes(format_index(lines))
        paths.append(str(segment.shard))
        indexes.append(str(index))
    return paths, indexes


def _raise_for_bad_sample(order: EpochOrder) -> None:
    """Name the sample that DALI failed at, by decoding them one by one; return if none is bad."""
    for segment in order.segments:
        for key, parts in read_samples(segment.shard, segment.entries):
            decode_sample(parts["jpg"], parts["png"], f"{segment.shard}, sample {key}")


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def _graph(
    paths: list[str],
    indexes: list[str],
    spec: InputSpec,
    gpu: bool,
    numbers: Callable[[int], list[np.ndarray[Any, Any]]] | None,
    window: Window | None,
) -> Any:
    components: Any = fn.readers.webdataset(
        paths=paths,
        index_paths=indexes,
        ext=list(_COMPONENTS),
        missing_component_behavior="error",
        name="reader",
    )
    jpg, png = components
    device = "mixed" if gpu else "cpu"
    # jpeg_fancy_upsampling: as libjpeg does it, so that CPU and GPU decode alike.
    image = fn.decoders.image(jpg, device=device, output_type=types.RGB, jpeg_fancy_upsampling=True)
    label = fn.decoders.image(png, device=device, output_type=types.GRAY)
    if numbers is None:
        eyes = _mark(label, 1, 1.0)
    else:
        mask = _mark(label, 1, 255)
        image, mask = _augment(image, mask, numbers, gpu, window)
        eyes = _mark(mask, 128, 1.0)
    pixels = fn.crop_mirror_normalize(
        image, dtype=types.FLOAT, output_layout="HWC", mean=list(spec.mean), std=list(spec.std)
    )
    return pixels, eyes


def _mark(levels: Any, least: int, value: float) -> Any:
    """Give `value` (float32 if it is a float, else uint8) to all levels from `least` up, else 0.

    One table, where comparing, multiplying and casting are three passes over integers of 32 bits.
    """
    keys = list(range(least, 256))
    dtype = types.FLOAT if isinstance(value, float) else types.UINT8
    return fn.lookup_table(levels, keys=keys, values=[value] * len(keys), dtype=dtype)


def _drawn_names(window: Window | None) -> list[str]:
    """List the drawn numbers that the graph takes: all, but crops are always moved."""
    return [name for name in Draw.__dataclass_fields__ if not (window and name == "moved")]


def _augment(
    image: Any,
    mask: Any,
    numbers: Callable[[int], list[np.ndarray[Any, Any]]],
    gpu: bool,
    window: Window | None,
) -> tuple[Any, Any]:
    """Apply a draw inside the graph; `train.augment.augment` is the same on arrays."""
    names = _drawn_names(window)
    drawn = fn.external_source(source=numbers, num_outputs=len(names), batch=True)
    n = {name: drawn[number] for number, name in enumerate(names)}
    hidden, twisted, blurred = n["hidden"], n["twisted"], n["blurred"]
    noisy, compressed = n["noisy"], n["compressed"]
    if hidden:
        region = {"anchor": n["anchor"], "shape": n["extent"], "axis_names": "HW"}
        image = fn.erase(image, fill_value=n["cover"], **region)
        mask = fn.erase(mask, fill_value=0.0, **region)
    if window:
        size = (window.height, window.width)
        image, mask = (_warp(plane, n["matrix"], gpu, size) for plane in (image, mask))
    elif n["moved"]:
        image, mask = (_warp(plane, n["matrix"], gpu, None) for plane in (image, mask))
    image = fn.brightness_contrast(
        image, brightness=n["brightness"], contrast=n["contrast"], contrast_center=128.0
    )
    if twisted:
        image = fn.color_twist(image, saturation=n["saturation"], hue=n["hue"])
    if blurred:
        image = fn.gaussian_blur(image, sigma=n["sigma"])
    if noisy:
        image = fn.noise.gaussian(image, stddev=n["noise"])
    if compressed:
        image = fn.jpeg_compression_distortion(image, quality=n["quality"])
    return image, mask


def _warp(plane: Any, matrix: Any, gpu: bool, size: tuple[int, int] | None) -> Any:
    """Warp with the border repeated: no black seams.

    On the CPU OpenCV's warp, behind `warp_perspective`, takes a fifth of the time of
    `warp_affine`; both agree to one level.
    """
    if gpu:
        return fn.warp_affine(
            plane, matrix=matrix[0:2, :], size=size, interp_type=types.INTERP_LINEAR
        )
    return fn.experimental.warp_perspective(
        plane, matrix=matrix, size=size, border_mode="replicate", interp_type=types.INTERP_LINEAR
    )


def _as_tensor(outputs: Any) -> torch.Tensor:
    """View a batch of HWC samples as N x C x H x W in channels_last memory, without a copy."""
    hwc: torch.Tensor = torch.utils.dlpack.from_dlpack(outputs.as_tensor())
    return hwc.permute(0, 3, 1, 2)

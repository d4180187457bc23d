"""The DALI loader: JPEGs decoded by DALI; on a GPU everything after that in the same graph.

With a CUDA device the JPEGs are decoded by `mixed` (on the GPU, by its JPEG engine where it has
one), augmented and normalised there. Without one DALI's CPU backend reads and decodes, and
`train.batch_work` does the rest, at a third of what DALI's CPU operators take; with `whole_graph`
the GPU's graph runs on the CPU as it is.

The order of samples is ours, not DALI's: a temporary index a shard lists the samples of the epoch.
A fresh graph an epoch costs 5 to 25 ms on the CPU, and buys a loader without state; long epochs
take several, because DALI's reader keeps every line of its indexes in memory. With a cache, the
first epoch fills it, and later ones begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types

from preprocess.errors import InputError
from preprocess.shards import ShardIndex, join_index, read_samples
from train.augment import Draw, noise_levels
from train.batch import Batch, LoaderConfig
from train.batch_draw import BatchDraw
from train.batch_work import BatchWork, finish, read_raw
from train.cache import SampleCache
from train.config import Window
from train.decode import decode_sample
from train.order import EpochOrder

_COMPONENTS = ("jpg", "png")
_AHEAD = 1
_STRETCH = 32_768  # samples that a graph indexes (480 bytes each); then a fresh one goes on


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
        for order in self._config.order.epoch(epoch).stretches(_STRETCH):
            yield from self._stretch(order)

    def _stretch(self, order: EpochOrder) -> Iterator[Batch]:
        config = self._config
        on_host = config.device.type == "cpu" and not config.whole_graph
        run = self._run_on_host if on_host else self._run
        if config.cache and _nearly_all_kept(config.cache, order):
            yield from run(order, [], [])
            return
        with TemporaryDirectory(prefix="eyes-index-") as folder:
            paths, indexes = _write_indexes(order, Path(folder))
            try:
                yield from run(order, paths, indexes)
            except RuntimeError:
                _raise_for_bad_sample(order)
                raise

    def _run_on_host(
        self, order: EpochOrder, paths: list[str], indexes: list[str]
    ) -> Iterator[Batch]:
        """Let DALI decode a stretch and threads do the rest; without paths, use the cache."""
        config, share = self._config, self._config.order.batch // self._config.order.world
        raw = read_raw(order, config, jpg=not paths)
        pipeline = None
        if paths:
            pipeline = _decoding_graph(
                paths, indexes, batch_size=share, num_threads=config.threads, device_id=None,
                prefetch_queue_depth=2,
            )  # fmt: skip
            pipeline.build()

        def works() -> Iterator[BatchWork]:
            for step in range(len(order.batches)):
                samples = list(islice(raw, share))
                pictures = _as_tensor(pipeline.run()[0]).numpy() if pipeline else None
                yield BatchWork.on(config, samples, pictures, self._draw(order, step, len(samples)))

        return finish(works(), config.threads, _AHEAD)

    def _run(self, order: EpochOrder, paths: list[str], indexes: list[str]) -> Iterator[Batch]:
        """Run a graph over a stretch: on the shards or, without paths, on what is in the cache."""
        config = self._config
        gpu = config.device.type == "cuda"
        stream = torch.cuda.current_stream(config.device) if gpu else None
        pipeline = self._build(order, paths, indexes)
        for keys in order.batches:
            images, masks, *decoded = (_as_tensor(out) for out in pipeline.run(stream))
            if decoded and config.cache:
                pictures, labels = (tensor.cpu().numpy() for tensor in decoded)
                for key, picture, label in zip(keys, pictures, labels, strict=False):
                    config.cache.put(key, picture, np.where(label > 0, np.uint8(255), np.uint8(0)))
            yield Batch(
                images[: len(keys)].permute(0, 3, 1, 2),
                masks[: len(keys)].permute(0, 3, 1, 2),
                keys,
            )

    def _build(self, order: EpochOrder, paths: list[str], indexes: list[str]) -> Any:
        config = self._config
        gpu = config.device.type == "cuda"
        rows, last = len(order.batches[0]), len(order.batches) - 1

        def numbers(step: int) -> list[Any]:
            step = min(step, last)
            drawn = self._draw(order, step, rows)
            assert drawn is not None
            return [
                _noise(drawn, config) if name == "noise" else getattr(drawn, name)
                for name in _drawn_names(config.window)
            ]

        def samples(step: int) -> tuple[list[Any], list[Any]]:
            keys = order.batches[min(step, last)]
            pairs = [_kept(config.cache, order, key) for key in keys]
            pairs += pairs[:1] * (rows - len(pairs))
            return [image for image, _ in pairs], [mask for _, mask in pairs]

        pipeline = _graph(
            config,
            Source(paths, indexes, samples),
            numbers if self._draw.on else None,
            batch_size=rows,
            num_threads=config.threads,
            device_id=(config.device.index or 0) if gpu else None,
            prefetch_queue_depth=2,
            seed=(config.order.seed * 1_000_003 + order.epoch) * 1_009 + config.order.rank
            + order.first_step * 1_000_000_007,
        )  # fmt: skip
        pipeline.build()
        return pipeline


@dataclass(frozen=True)
class Source:
    """Where samples come from: shards, with an index each, or, where there are none, memory."""

    paths: list[str]
    indexes: list[str]
    samples: Callable[[int], tuple[list[Any], list[Any]]]


def _nearly_all_kept(cache: SampleCache, order: EpochOrder) -> bool:
    """Tell whether the samples are in memory, but for a few that one epoch leaves out."""
    keys = [key for batch in order.batches for key in batch]
    return cache.missing(keys) <= max(1, len(order.batches[0]), len(keys) // 50)


def _kept(cache: SampleCache | None, order: EpochOrder, key: str) -> tuple[Any, Any]:
    """Return a sample from the cache, after reading it where it is not there yet."""
    assert cache is not None
    if key not in cache:
        for segment in order.segments:
            for entry in segment.entries:
                if entry.key == key:
                    ((_, parts),) = read_samples(segment.shard, [entry])
                    name = f"{segment.shard}, sample {key}"
                    cache.put(key, *decode_sample(parts["jpg"], parts["png"], name))
    return cache.get(key)


def _noise(drawn: Draw, config: LoaderConfig) -> list[npt.NDArray[np.int16]]:
    """Return what is added to each picture; one zero to most."""
    size, window = config.spec.size, config.window
    height, width = (window.height, window.width) if window else (size, size)
    none = np.zeros((1, 1, 3), np.int16)
    return [
        noise_levels(drawn, row, height, width) if noisy else none
        for row, noisy in enumerate(drawn.noisy)
    ]


def _write_indexes(order: EpochOrder, folder: Path) -> tuple[list[str], list[str]]:
    """Write an index for each segment; return the shards and the indexes, as DALI wants them."""
    paths, indexes = [], []
    for number, segment in enumerate(order.segments):
        whole = ShardIndex.read(segment.shard)
        rows = segment.rows.tolist()
        lines = [whole.lines[row] for row in rows]
        for extension in _COMPONENTS:
            there = f"{extension} ".encode(), f" {extension} ".encode()
            for row, line in zip(rows, lines, strict=True):
                if not (line.startswith(there[0]) or there[1] in line):
                    problem = f"sample {whole.entry(row).key!r} has no {extension}"
                    raise InputError(segment.shard, problem, "Pack again: `make shards`")
        index = folder / f"{number}.idx"
        index.write_bytes(join_index(lines))
        paths.append(str(segment.shard))
        indexes.append(str(index))
    return paths, indexes


def _raise_for_bad_sample(order: EpochOrder) -> None:
    """Name the sample that DALI failed at, by decoding them one by one; return if none is bad."""
    for segment in order.segments:
        for key, parts in read_samples(segment.shard, segment.entries):
            decode_sample(parts["jpg"], parts["png"], f"{segment.shard}, sample {key}")


@pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
def _decoding_graph(paths: list[str], indexes: list[str]) -> Any:
    jpg = _read(paths, indexes, ["jpg"])
    return fn.decoders.image(jpg, output_type=types.RGB, jpeg_fancy_upsampling=True)


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def _graph(config: LoaderConfig, source: Source, numbers: Callable[[int], list[Any]] | None) -> Any:
    gpu, spec = config.device.type == "cuda", config.spec
    decoded: tuple[Any, ...] = ()
    if source.paths:
        image, label = _read_and_decode(source, config)
        if config.cache:
            decoded = (image, label)
    else:
        # On the CPU the cache's own memory is used, without a copy.
        image, label = fn.external_source(
            source.samples, num_outputs=2, batch=True, layout="HWC", no_copy=not gpu
        )
        if gpu:
            image, label = image.gpu(), label.gpu()
    if numbers is None:
        eyes = label > 0
    else:
        # The factor's type keeps the product at a byte: 0.2 ms a picture less than a cast after it.
        mask = (label > 0) * types.Constant(255, dtype=types.UINT8)
        image, mask = _augment(image, mask, numbers, gpu, config.window)
        eyes = mask >= 128
    pixels = fn.crop_mirror_normalize(
        image, dtype=types.FLOAT, output_layout="HWC", mean=list(spec.mean), std=list(spec.std)
    )
    return pixels, fn.cast(eyes, dtype=types.FLOAT), *decoded


def _read_and_decode(source: Source, config: LoaderConfig) -> tuple[Any, Any]:
    """Return images and label maps, above 0 where an eye is."""
    jpg, png = _read(source.paths, source.indexes, list(_COMPONENTS))
    gpu = config.device.type == "cuda"
    device = "mixed" if gpu else "cpu"
    # jpeg_fancy_upsampling: as libjpeg does it, so that CPU and GPU decode alike.
    engine: dict[str, Any] = {"hw_decoder_load": config.hardware_share} if gpu else {}
    image = fn.decoders.image(
        jpg, device=device, output_type=types.RGB, jpeg_fancy_upsampling=True, **engine
    )
    return image, fn.decoders.image(png, device=device, output_type=types.GRAY)


def _read(paths: list[str], indexes: list[str], extensions: list[str]) -> Any:
    return fn.readers.webdataset(
        paths=paths,
        index_paths=indexes,
        ext=extensions,
        missing_component_behavior="error",
        dont_use_mmap=True,  # pages of mapped shards count as ours, for as long as the graph lives
        name="reader",
    )


def _drawn_names(window: Window | None) -> list[str]:
    """List the drawn numbers that the graph takes; crops are always moved, noise comes ready."""
    unused = {"grain", "moved"} if window else {"grain"}
    return [*(name for name in Draw.__dataclass_fields__ if name not in unused), "window"]


def _augment(
    image: Any,
    mask: Any,
    numbers: Callable[[int], list[Any]],
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
        image = fn.gaussian_blur(image, sigma=n["sigma"], window_size=n["window"])
    if noisy:
        # DALI's own noise takes 9 ms a picture on a CPU. The sum has 16 bits; the cast saturates.
        image = fn.cast(image + (n["noise"].gpu() if gpu else n["noise"]), dtype=types.UINT8)
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
    """View a batch of HWC samples as an N x H x W x C tensor, without a copy."""
    tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(outputs.as_tensor())
    return tensor

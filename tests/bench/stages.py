"""Where the time goes in loading: CPU milliseconds a picture, stage by stage.

DALI's stages are differences between graphs that each do one stage more than the one before; the
portable loader's are taken with a stopwatch around each stage's own function.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contest import Figures
from nvidia.dali import fn, pipeline_def, types
from peers import measure

from train import dali_loader, decode, portable_loader
from train.batch import LoaderConfig

STAGES = ("read", "JPEG decode", "PNG decode", "normalise", "copy and collate")
_REPEATS, _WARM = 3, 4


def dali_stages(config: LoaderConfig) -> Figures:
    """Return the stages of the DALI loader without augmentation."""
    order = config.order.epoch(0)
    spent: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        paths, indexes = dali_loader._write_indexes(order, Path(folder))
        for _ in range(_REPEATS):
            for stage in STAGES:
                pipeline = _graph(
                    paths, indexes, config.spec, stage, batch_size=config.order.batch,
                    num_threads=config.threads, device_id=None, prefetch_queue_depth=2,
                )  # fmt: skip
                pipeline.build()
                spent[stage].append(_run(pipeline, len(order.batches), stage == STAGES[-1]))
    whole = [statistics.median(spent[stage]) for stage in STAGES]
    pictures = (len(order.batches) - _WARM) * config.order.batch
    return {
        stage: 1e3 * (after - before) / pictures
        for stage, before, after in zip(STAGES, [0.0, *whole], whole, strict=False)
    }


def _run(pipeline: Any, steps: int, copy: bool) -> float:
    started = 0.0
    for step in range(steps):
        if step == _WARM:
            started = time.process_time()
        outputs = pipeline.run()
        if copy:
            for output in outputs:
                measure._touch(dali_loader._as_tensor(output))
    return time.process_time() - started


@pipeline_def(enable_conditionals=True, exec_dynamic=True)
def _graph(paths: list[str], indexes: list[str], spec: Any, stage: str) -> Any:
    """Build the loader's own graph up to a stage (see `train.dali_loader`)."""
    depth = STAGES.index(stage)
    image, label = fn.readers.webdataset(
        paths=paths,
        index_paths=indexes,
        ext=["jpg", "png"],
        missing_component_behavior="error",
        dont_use_mmap=True,
    )
    if depth >= STAGES.index("JPEG decode"):
        image = fn.decoders.image(image, output_type=types.RGB, jpeg_fancy_upsampling=True)
    if depth >= STAGES.index("PNG decode"):
        label = fn.decoders.image(label, output_type=types.GRAY)
    if depth >= STAGES.index("normalise"):
        image = fn.crop_mirror_normalize(
            image, dtype=types.FLOAT, output_layout="HWC", mean=list(spec.mean), std=list(spec.std)
        )
        label = fn.cast(label > 0, dtype=types.FLOAT)
    return image, label


def portable_stages(config: LoaderConfig) -> Figures:
    """Return the stages of the portable loader without augmentation, with one decoding thread."""
    spent: dict[str, float] = defaultdict(float)

    def watch(owner: Any, name: str, stage: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return real(*args, **kwargs)
            finally:
                spent[stage] += time.thread_time() - start

        setattr(owner, name, timed)

    real_read = portable_loader._read

    def read(*args: Any) -> Iterator[Any]:
        samples = real_read(*args)
        while True:
            start = time.thread_time()
            sample = next(samples, None)
            spent["read"] += time.thread_time() - start
            if sample is None:
                return
            yield sample

    loader = portable_loader.PortableLoader(dataclasses.replace(config, threads=1))
    for _ in loader.epoch(0):
        pass
    portable_loader._read = read
    watch(decode, "decode_rgb", "JPEG decode")
    watch(decode, "decode_label", "PNG decode")
    watch(portable_loader, "normalise_into", "normalise")
    pictures, start = 0, time.process_time()
    for batch in loader.epoch(1):
        pictures += len(batch.keys)
    spent["copy and collate"] = time.process_time() - start - sum(spent.values())
    return {stage: 1e3 * spent[stage] / pictures for stage in STAGES}

"""Where the time goes in loading: CPU milliseconds a picture, stage by stage, nothing augmented.

A stopwatch stands around each stage's own function, in the thread that runs it. What DALI does in
its own threads is taken from graphs that do nothing else. The rest is what is left of the
process's time: making room, copying, handing over.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contest import Figures, Stopwatch
from nvidia.dali import pipeline_def

from train import batch_work, dali_loader, decode, portable_loader
from train.batch import LoaderConfig

STAGES = ("read", "JPEG decode", "PNG decode", "normalise", "copy and collate")
_REPEATS, _WARM = 3, 4


def dali_stages(config: LoaderConfig) -> Figures:
    """Return the stages of the DALI loader on a CPU."""
    order = config.order.epoch(0)
    spent: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        paths, indexes = dali_loader._write_indexes(order, Path(folder))
        for _ in range(_REPEATS):
            for stage, graph in (("read", _reading_graph), ("both", dali_loader._decoding_graph)):
                pipeline = graph(
                    paths, indexes, batch_size=config.order.batch, num_threads=config.threads,
                    device_id=None, prefetch_queue_depth=2,
                )  # fmt: skip
                pipeline.build()
                spent[stage].append(_run(pipeline, len(order.batches)))
    pictures = (len(order.batches) - _WARM) * config.order.batch
    read, both = (1e3 * statistics.median(spent[stage]) / pictures for stage in ("read", "both"))
    return _stages(
        dali_loader.DaliLoader(config), dali_loader, {"read": read, "JPEG decode": both - read}
    )


def portable_stages(config: LoaderConfig) -> Figures:
    """Return the stages of the portable loader."""
    return _stages(portable_loader.PortableLoader(config), portable_loader, {})


@pipeline_def(exec_dynamic=True)
def _reading_graph(paths: list[str], indexes: list[str]) -> Any:
    return dali_loader._read(paths, indexes, ["jpg"])


def _run(pipeline: Any, steps: int) -> float:
    started = 0.0
    for step in range(steps):
        if step == _WARM:
            started = time.process_time()
        pipeline.run()
    return time.process_time() - started


def _stages(loader: Any, module: Any, known: Figures) -> Figures:
    """Run an epoch to warm up and one under the stopwatch."""
    stopwatch = Stopwatch()
    watch, spent = stopwatch.watch, stopwatch.spent

    real_read = module.read_raw

    def read(*args: Any, **kwargs: Any) -> Iterator[Any]:
        samples = real_read(*args, **kwargs)
        while True:
            start = time.thread_time()
            sample = next(samples, None)
            spent["read"] += time.thread_time() - start
            if sample is None:
                return
            yield sample

    for _ in loader.epoch(0):
        pass
    module.read_raw = read
    watch(decode, "decode_rgb", "JPEG decode")
    watch(decode, "decode_label", "PNG decode")
    watch(batch_work, "decode_label", "PNG decode")
    watch(batch_work, "normalise_into", "normalise")
    pictures, start = 0, time.process_time()
    for batch in loader.epoch(1):
        pictures += len(batch.keys)
    whole = 1e3 * (time.process_time() - start) / pictures
    figures = {stage: 1e3 * spent[stage] / pictures + known.get(stage, 0.0) for stage in STAGES}
    figures["copy and collate"] = whole - sum(figures.values())
    return figures

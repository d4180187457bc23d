"""SPDL (Meta): a pipeline of threads in this process, over the packed pictures as files.

Advice followed: https://facebookresearch.github.io/spdl/latest/getting_started/index.html
(functions that release the lock, as many tasks at a time as threads, a buffer before the consumer).
What decodes is the fastest that we know, simplejpeg, which releases the lock too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
from measure import Batch, Pair
from spdl.pipeline import PipelineBuilder


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--tasks", choices=("batch", "picture"), default="batch")
    options = parser.parse_args()
    paths = sorted((options.data / "files").glob("*.jpg"))
    decode = measure.DECODERS[options.decoder]

    def load(path: Path) -> Pair:
        return decode(path.read_bytes(), path.with_suffix(".png").read_bytes())

    def load_batch(some: list[Path]) -> Batch:
        return measure.stack([load(path) for path in some])

    def epoch(number: int) -> Iterator[Batch]:
        order = np.random.default_rng(number).permutation(len(paths))
        shuffled = [paths[at] for at in order[: len(order) // measure.BATCH * measure.BATCH]]
        if options.tasks == "picture":
            builder = (
                PipelineBuilder()
                .add_source(shuffled)
                .pipe(load, concurrency=options.workers, output_order="input")
                .aggregate(measure.BATCH)
                .pipe(measure.stack)
            )
        else:
            parts = [
                shuffled[at : at + measure.BATCH] for at in range(0, len(shuffled), measure.BATCH)
            ]
            builder = (
                PipelineBuilder()
                .add_source(parts)
                .pipe(load_batch, concurrency=options.workers, output_order="input")
            )
        pipeline = builder.add_sink(2).build(num_threads=options.workers)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

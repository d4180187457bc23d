"""The portable loader: the decode path of `preprocess.image` in threads, on any platform.

Gives the same batches as the DALI loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from train.batch import Batch, LoaderConfig
from train.batch_draw import BatchDraw
from train.batch_work import BatchWork, finish, read_raw

_AHEAD = 2


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
        config, order = self._config, self._config.order.epoch(epoch)
        raw = read_raw(order, config)

        def works() -> Iterator[BatchWork]:
            for step in range(len(order.batches)):
                samples = list(islice(raw, config.order.batch // config.order.world))
                yield BatchWork.on(config, samples, None, self._draw(order, step, len(samples)))

        return finish(works(), config.threads, _AHEAD)

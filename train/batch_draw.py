"""Which random numbers a batch of a loader gets."""

from __future__ import annotations

import numpy as np

from preprocess.shards import ShardIndex
from train.augment import Draw, draw
from train.batch import LoaderConfig
from train.config import AugmentConfig
from train.eyes import Eyes, read_eyes
from train.order import EpochOrder


class BatchDraw:
    """Draws the augmentation of one batch after the other; None where nothing is augmented.

    Raises
    ------
    InputError
        Where eyes are to be found or covered and the pack does not say where the eyes are: of the
        first sample at once, of the others when their shard is read.
    """

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self.on = config.window is not None or config.augment != AugmentConfig.off()
        by_eyes = config.window is not None or config.augment.hide.probability > 0
        self._eyes = Eyes(config.spec.size) if by_eyes else None
        if by_eyes:  # a pack without eyes is refused before a run begins
            read_eyes(ShardIndex.read(config.order.shards[0][0]), config.spec.size, count=1)

    def __call__(self, order: EpochOrder, step: int, count: int) -> Draw | None:
        """Draw for batch `step` of `order`.

        Of the last, incomplete batch of an evaluation, `count` may be more than its samples.
        """
        if not self.on:
            return None
        config = self._config
        first, eyes = order.first_row, np.zeros((config.order.batch, 2, 2), np.float32)
        if self._eyes is not None:
            centres = self._eyes.of_batch(order, step)
            eyes[first : first + len(centres)] = centres
        seed = (config.order.seed, order.epoch, order.first_step + step)
        return draw(config.augment, config.spec.size, seed, eyes, config.window).rows(
            slice(first, first + count)
        )

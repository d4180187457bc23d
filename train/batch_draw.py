"""Which random numbers a batch of a loader gets."""

from __future__ import annotations

import numpy as np

from train.augment import Draw, draw
from train.batch import LoaderConfig
from train.config import AugmentConfig
from train.eyes import read_eyes


class BatchDraw:
    """Draws the augmentation of one batch after the other; None where nothing is augmented.

    Raises
    ------
    InputError
        Where eyes are to be found or covered and the pack does not say where the eyes are.
    """

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self.on = config.window is not None or config.augment != AugmentConfig.off()
        self._by_eyes = config.window is not None or config.augment.hide.probability > 0
        self._eyes = read_eyes(config.order.shards, config.spec.size) if self._by_eyes else {}

    def __call__(
        self, epoch: int, step: int, first: int, keys: tuple[str, ...], count: int
    ) -> Draw | None:
        """Draw for the samples `keys`, the first of them row `first` of all processes' batch.

        Of the last, incomplete batch of an evaluation, `count` may be more than the keys.
        """
        if not self.on:
            return None
        config, order = self._config, self._config.order
        eyes = np.zeros((order.batch, 2, 2), np.float32)
        if self._by_eyes:
            eyes[first : first + len(keys)] = [self._eyes[key] for key in keys]
        seed = (order.seed, epoch, step)
        return draw(config.augment, config.spec.size, seed, eyes, config.window).rows(
            slice(first, first + count)
        )

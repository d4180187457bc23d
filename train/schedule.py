"""Learning rate and averaging of weights, as pure functions of the step."""

from __future__ import annotations

import math

import torch
from torch import nn


def learning_rate(step: int, steps: int, warmup: int, peak: float = 1.0) -> float:
    """Rise linearly over `warmup` steps, then fall along a half cosine to 1 percent of the peak.

    Half-cosine decay: Loshchilov and Hutter, ICLR 2017.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def ema_decay(step: int, decay: float) -> float:
    """Return the share of the old average that step `step` (from 0) keeps.

    Grows as (1 + step) / (10 + step) up to `decay`, so the start is forgotten in short runs too
    (as in TensorFlow's ExponentialMovingAverage).
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards the model's; buffers (batch statistics) move alike."""
    old, new = average.state_dict(), model.state_dict()
    moving = [name for name, value in new.items() if value.is_floating_point()]
    torch._foreach_lerp_([old[name] for name in moving], [new[name] for name in moving], 1 - decay)
    for name in new.keys() - set(moving):  # counters
        old[name].copy_(new[name])

"""What a probability is worth: reliability, a correction fitted on val, and the threshold.

Everything is computed from two histograms of the logits, one for background and one for eye
pixels, so a split of any size needs one pass and 64 KB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Floats = npt.NDArray[np.float64]

# Bins of the logit: 0.01 wide, so a probability is known to a quarter of a percent.
_LIMIT = 20.0
_BINS = 4000
# Pixels that a network is sure about, and there are 99 in 100 of them, hide how well the others
# are calibrated: those between these probabilities are looked at on their own.
_UNSURE = (0.02, 0.98)


def logit_counts(logits: Tensor, masks: Tensor) -> Tensor:
    """Count pixels by logit and truth, on the tensors' device; masks are 0 or 1.

    Returns 2 x 4000 int64: background and eye pixels in each bin of the logit, -20 to 20.
    """
    bins = ((logits.float() + _LIMIT) * (_BINS / (2 * _LIMIT))).long().clamp(0, _BINS - 1)
    both = (bins + _BINS * (masks >= 0.5).long()).flatten()
    # Not bincount: it waits for the device to learn how many bins there are.
    counts = torch.zeros(2 * _BINS, dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(0, both, torch.ones_like(both)).view(2, _BINS)


@dataclass(frozen=True)
class Correction:
    """What makes a probability of a logit z: sigmoid(scale z + shift + bend min(z + knee, 0)).

    A scale and a shift (Platt, 1999) set right the pixels along the edge of an eye, which a Dice
    loss makes too sure; far from any eye the logits fall more steeply, and from `knee` on down
    so does the correction. 1, 0, 0 and 0 change nothing.
    """

    scale: float = 1.0
    shift: float = 0.0
    bend: float = 0.0
    knee: float = 0.0

    def __call__(self, logits: Any) -> Any:
        """Correct logits: a tensor or an array."""
        if self == Correction():
            return logits
        return logits * self.scale + self.shift + self.bend * (logits + self.knee).clip(max=0)


class Calibrated(nn.Module):
    """A network, images to logits, whose logits are corrected."""

    def __init__(self, network: nn.Module, correction: Correction) -> None:
        super().__init__()
        self.network, self._correction = network, correction

    def forward(self, images: Tensor) -> Tensor:
        """See `train.model.UNet.forward`."""
        logits: Tensor = self._correction(self.network(images))
        return logits


@dataclass(frozen=True)
class Reliability:
    """Pixels in bins of the predicted probability.

    `error` is the expected calibration error (Naeini et al., AAAI 2015): the mean distance of
    `predicted` and `observed`, weighted by pixels; `error_unsure` counts only those of 2 to 98
    percent.
    """

    predicted: tuple[float, ...]  # mean probability, 0..1
    observed: tuple[float, ...]  # share of the pixels that are an eye
    pixels: tuple[int, ...]
    error: float
    error_unsure: float


class LogitHistogram:
    """Pixels of a split by logit and truth: `logit_counts`, summed over batches.

    A correction keeps the order of the logits, so the counts stay.
    """

    def __init__(self, counts: npt.NDArray[np.int64], correction: Correction | None = None) -> None:
        self.counts = counts
        width = 2 * _LIMIT / _BINS
        edges = -_LIMIT + width * np.arange(_BINS, dtype=np.float64)
        correct = correction or Correction()
        self._edges, self._logits = correct(edges), correct(edges + width / 2)

    def f1_by_threshold(self) -> tuple[Floats, Floats]:
        """Return thresholds on the probability, and the F1 from pixel counts at each."""
        marked = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
        hit, false = marked[1], marked[0]
        whole = hit + false + self.counts[1].sum()
        return _sigmoid(self._edges), np.where(whole > 0, 2 * hit / np.maximum(whole, 1), 1.0)

    def best_threshold(self) -> float:
        """Return the threshold of the highest F1; the one nearest to 0.5 of those as good."""
        thresholds, f1 = self.f1_by_threshold()
        sound = np.where((thresholds > 0.05) & (thresholds < 0.95), f1, -1.0)
        as_good = thresholds[sound >= sound.max() - 1e-9]
        return round(float(as_good[np.abs(as_good - 0.5).argmin()]), 4)

    def fit(self) -> Correction:
        """Fit the correction by maximum likelihood: Newton's method for each of some knees.

        Without both kinds of pixels there is nothing to fit, and nothing is changed.
        """
        if not self.counts.sum(axis=1).all():
            return Correction()
        fits = [self._fit(knee) for knee in np.arange(2.0, 12.0, 0.5)]
        _, best = min(fits, key=lambda fit: fit[0])
        # An inverted or collapsed fit is worse than none (a network that has learned nothing).
        sound = 0.1 < best.scale < 10 and best.scale + best.bend > 0
        return best if sound else Correction()

    def _fit(self, knee: float) -> tuple[float, Correction]:
        """Return the negative log-likelihood of the best correction with this knee, and it."""
        background, eye = self.counts.astype(np.float64)
        below = np.minimum(self._logits + knee, 0)
        design = np.stack([self._logits, np.ones(_BINS), below])
        total, solution = background + eye, np.array([1.0, 0.0, 0.0])
        for _ in range(50):
            p = _sigmoid(solution @ design)
            slope = design @ (total * p - eye)
            curve = (design * (total * p * (1 - p))) @ design.T + 1e-3 * np.eye(3)
            step = np.linalg.solve(curve, slope)
            solution = solution - np.clip(step, -1, 1)
            if np.abs(step).max() < 1e-7:
                break
        z = solution @ design
        cost = float((background * np.logaddexp(0, z) + eye * np.logaddexp(0, -z)).sum())
        scale, shift, bend = (float(value) for value in solution)
        return cost, Correction(scale, shift, bend, float(knee))

    def reliability(self, bins: int = 20) -> Reliability:
        """Sort the pixels into bins of equal width in probability."""
        p = _sigmoid(self._logits)
        total = self.counts.sum(axis=0).astype(np.float64)
        eye = self.counts[1].astype(np.float64)
        place = np.minimum((p * bins).astype(int), bins - 1)

        def by_bin(values: Floats) -> Floats:
            return np.bincount(place, values, bins).astype(np.float64)

        pixels, hits, sums = by_bin(total), by_bin(eye), by_bin(total * p)
        there = np.maximum(pixels, 1)
        unsure = (p > _UNSURE[0]) & (p < _UNSURE[1])
        gaps = np.abs(by_bin((total * p - eye) * unsure))
        return Reliability(
            predicted=tuple((sums / there).tolist()),
            observed=tuple((hits / there).tolist()),
            pixels=tuple(int(n) for n in pixels),
            error=float(np.abs(sums - hits).sum() / max(1.0, pixels.sum())),
            error_unsure=float(gaps.sum() / max(1.0, float((total * unsure).sum()))),
        )


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -values))  # overflows nowhere

"""Segmentation metrics from pixel counts.

Counts are summed over a whole split and divided once, as the published tables do; averages of
batch averages are never taken. Counting stays on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metrics:
    """Figures of one split, from pixel counts over all of it; both eyes count as one class."""

    f1: float
    iou: float
    precision: float
    recall: float
    mean_iou: float  # over pictures, of each one's IoU (1 if truth and prediction are both empty)
    images: int
    images_without_eyes: int
    false_positive_pixels: int  # marked in pictures without eyes
    false_positive_share: float  # of the pixels of those pictures (0 if there are none)


def pixel_counts(logits: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Count pixels by picture: true positives, false positives, false negatives, all; N x 4 int64.

    `logits` and `masks` (0 or 1) are N x 1 x H x W. From the probability `threshold` on a pixel is
    an eye.
    """
    predicted = logits.float().sigmoid() >= threshold
    truth = masks >= 0.5
    both = (predicted & truth).sum(dim=(1, 2, 3))
    marked, wanted = predicted.sum(dim=(1, 2, 3)), truth.sum(dim=(1, 2, 3))
    pixels = torch.full_like(both, masks[0].numel())
    return torch.stack([both, marked - both, wanted - both, pixels], dim=1)


def image_iou(counts: Tensor) -> Tensor:
    """Return each picture's IoU, N float64, from N x 4 counts."""
    hit, false, missed, _ = counts.double().unbind(dim=1)
    union = hit + false + missed
    return torch.where(union > 0, hit / union.clamp(min=1), torch.ones_like(union))


def metrics_of(counts: Tensor) -> Metrics:
    """Reduce N x 4 counts to figures; ratios of nothing to nothing are 1."""
    counts = counts.cpu()
    hit, false, missed, _ = (int(value) for value in counts.sum(dim=0))
    blank = counts[counts[:, 0] + counts[:, 2] == 0]
    blank_pixels, blank_false = int(blank[:, 3].sum()), int(blank[:, 1].sum())

    def ratio(part: int, whole: int) -> float:
        return part / whole if whole else 1.0

    return Metrics(
        f1=ratio(2 * hit, 2 * hit + false + missed),
        iou=ratio(hit, hit + false + missed),
        precision=ratio(hit, hit + false),
        recall=ratio(hit, hit + missed),
        mean_iou=float(image_iou(counts).mean()) if len(counts) else 1.0,
        images=len(counts),
        images_without_eyes=len(blank),
        false_positive_pixels=blank_false,
        false_positive_share=blank_false / blank_pixels if blank_pixels else 0.0,
    )

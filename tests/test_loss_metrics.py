import math

import pytest
import torch

from train.loss import bce_dice
from train.metrics import image_iou, metrics_of, pixel_counts


def masks_and_logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Three 4 x 4 pictures: 2 of 3 pixels found and 1 too many; blank, right; blank, 2 wrong."""
    masks, logits = torch.zeros(3, 1, 4, 4), torch.full((3, 1, 4, 4), -5.0)
    masks[0, 0, 0, :3] = 1
    logits[0, 0, 0, 1:] = 5.0
    logits[2, 0, 3, :2] = 5.0
    return masks, logits


def test_counts_and_figures_are_those_of_the_definition() -> None:
    masks, logits = masks_and_logits()
    counts = pixel_counts(logits, masks)
    assert counts.tolist() == [[2, 1, 1, 16], [0, 0, 0, 16], [0, 2, 0, 16]]
    figures = metrics_of(counts)
    assert figures.f1 == pytest.approx(2 * 2 / (2 * 2 + 3 + 1))
    assert figures.iou == pytest.approx(2 / 6)
    assert figures.precision == pytest.approx(2 / 5)
    assert figures.recall == pytest.approx(2 / 3)
    assert image_iou(counts).tolist() == [0.5, 1.0, 0.0]
    assert figures.mean_iou == pytest.approx(0.5)
    assert (figures.images, figures.images_without_eyes) == (3, 2)
    assert figures.false_positive_pixels == 2
    assert figures.false_positive_share == pytest.approx(2 / 32)


def test_counts_add_up_over_batches_and_do_not_average() -> None:
    masks, logits = masks_and_logits()
    whole = metrics_of(pixel_counts(logits, masks))
    parts = [pixel_counts(logits[i : i + 1], masks[i : i + 1]) for i in range(3)]
    assert metrics_of(torch.cat(parts)) == whole


def test_threshold_is_on_the_probability() -> None:
    logits = torch.full((1, 1, 1, 1), math.log(0.3 / 0.7))
    ones = torch.ones(1, 1, 1, 1)
    assert pixel_counts(logits, ones, threshold=0.25)[0, 0] == 1
    assert pixel_counts(logits, ones, threshold=0.35)[0, 0] == 0


def test_a_split_without_eyes_has_no_division_by_zero() -> None:
    figures = metrics_of(torch.tensor([[0, 0, 0, 16]]))
    assert (figures.f1, figures.iou, figures.mean_iou) == (1.0, 1.0, 1.0)


def test_loss_falls_with_the_overlap_and_is_finite_on_blank_pictures() -> None:
    masks, _ = masks_and_logits()
    right, wrong = (masks * 2 - 1) * 20, (1 - masks * 2) * 20
    assert float(bce_dice(right, masks)) < 1e-3
    assert float(bce_dice(wrong, masks)) > 10
    assert torch.isfinite(bce_dice(torch.zeros_like(masks), torch.zeros_like(masks)))


def test_loss_of_a_batch_is_the_mean_over_its_parts() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(4, 1, 8, 8), (torch.rand(4, 1, 8, 8) > 0.8).float()
    halves = [bce_dice(logits[part], masks[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(bce_dice(logits, masks), sum(halves) / 2)

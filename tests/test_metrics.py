"""Loss, counts, thresholds, reliability and the correction, against plain arithmetic."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from train.calibration import Calibrated, Correction, LogitHistogram, logit_counts
from train.config import ModelConfig
from train.loss import bce_dice
from train.metrics import image_iou, metrics_of, pixel_counts
from train.model import UNet

Pair = tuple[torch.Tensor, torch.Tensor]


def masks_and_logits() -> Pair:
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
    assert image_iou(counts).tolist() == [0.5, 1.0, 0.0]
    assert asdict(figures) == pytest.approx({
        "f1": 2 * 2 / (2 * 2 + 3 + 1), "iou": 2 / 6, "precision": 2 / 5, "recall": 2 / 3,
        "mean_iou": 0.5, "images": 3, "images_without_eyes": 2, "false_positive_pixels": 2,
        "false_positive_share": 2 / 32,
    })  # fmt: skip
    at_three_tenths = torch.full((1, 1, 1, 1), math.log(0.3 / 0.7)), torch.ones(1, 1, 1, 1)
    assert [int(pixel_counts(*at_three_tenths, t)[0, 0]) for t in (0.25, 0.35)] == [1, 0]


def test_a_split_without_eyes_has_no_division_by_zero() -> None:
    figures = metrics_of(torch.tensor([[0, 0, 0, 16]]))
    assert (figures.f1, figures.iou, figures.mean_iou) == (1.0, 1.0, 1.0)


def test_loss_falls_with_the_overlap_and_is_finite_on_blank_pictures() -> None:
    masks, _ = masks_and_logits()
    right, wrong = (masks * 2 - 1) * 20, (1 - masks * 2) * 20
    assert float(bce_dice(right, masks)) < 1e-3
    assert float(bce_dice(wrong, masks)) > 10
    assert torch.isfinite(bce_dice(torch.zeros_like(masks), torch.zeros_like(masks)))
    each = torch.stack([bce_dice(row[None], masks[:1]) for row in (right[0], wrong[0])])
    both = bce_dice(torch.stack([right[0], wrong[0]]), masks[[0, 0]])
    torch.testing.assert_close(both, each.mean())


def pixels(count: int, shift: float = 0.0) -> Pair:
    """Draw logits whose true probability is sigmoid(logit - shift), and which pixels are an eye."""
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 2.5, count)
    eye = rng.random(count) < 1 / (1 + np.exp(-true))
    both = np.stack([true + shift, eye]).astype(np.float32)
    return tuple(torch.from_numpy(both).view(2, 1, 1, 1, count))


def histogram(logits: torch.Tensor, masks: torch.Tensor) -> LogitHistogram:
    return LogitHistogram(logit_counts(logits, masks).numpy())


def test_every_pixel_is_counted_once_however_large_its_logit() -> None:
    logits = torch.tensor([-1e9, -25.0, -0.001, 0.0, 3.0, 25.0, 1e9]).view(1, 1, 1, -1)
    masks = torch.tensor([0.0, 1, 0, 1, 1, 0, 1]).view(1, 1, 1, -1)
    counts = logit_counts(logits, masks)
    assert counts.sum(dim=1).tolist() == [3, 4]
    assert counts[0, 0] == counts[1, 0] == 1
    assert counts[0, -1] == counts[1, -1] == 1


def test_f1_of_a_threshold_is_the_f1_of_the_metrics() -> None:
    logits, masks = pixels(20_000)
    thresholds, f1 = histogram(logits, masks).f1_by_threshold()
    for place in (1500, 2000, 2300):
        metrics = metrics_of(pixel_counts(logits, masks, float(thresholds[place])))
        assert f1[place] == pytest.approx(metrics.f1, abs=2e-3)


def test_best_threshold_beats_its_neighbours_and_keeps_to_half_where_all_are_equal() -> None:
    logits, masks = pixels(50_000, shift=1.0)
    best = histogram(logits, masks).best_threshold()
    tried = (0.2, 0.35, best, 0.75, 0.9)
    assert best == max(tried, key=lambda t: metrics_of(pixel_counts(logits, masks, t)).f1)
    sure = torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2)
    assert histogram(sure, (sure > 0).float()).best_threshold() == pytest.approx(0.5, abs=0.003)


def test_correction_bends_where_far_background_is_surer() -> None:
    true, masks = pixels(400_000)
    # The network is too sure at an edge (twice), and right about what is far below.
    logits = torch.where(true > -3, 2 * true, true - 3) - 1
    before = histogram(logits, masks)
    correction = before.fit()
    assert correction.scale == pytest.approx(0.5, rel=0.05)
    assert correction.shift == pytest.approx(0.5, rel=0.1)
    assert correction.scale + correction.bend == pytest.approx(1, rel=0.1)
    assert correction.knee == pytest.approx(7, abs=0.5)
    after = histogram(correction(logits), masks)
    assert after.reliability().error_unsure < 0.01 < before.reliability().error_unsure


def test_without_eyes_nothing_is_corrected() -> None:
    logits, masks = pixels(1000)
    assert histogram(logits, masks * 0).fit() == Correction()


def test_reliability_tells_shares_and_errors() -> None:
    # 100 pixels at 0.9, of which half are an eye.
    logits = torch.full((1, 1, 1, 100), float(np.log(9)))
    masks = (torch.arange(100) < 50).float().view(1, 1, 1, 100)
    reliability = histogram(logits, masks).reliability(bins=10)
    assert sum(reliability.pixels) == 100
    (place,) = np.flatnonzero(reliability.pixels)
    assert reliability.predicted[place] == pytest.approx(0.9, abs=2e-3)
    assert reliability.observed[place] == pytest.approx(0.5)
    assert reliability.error == reliability.error_unsure == pytest.approx(0.4, abs=2e-3)


def test_calibration_acts_on_the_logits_and_the_training_network_has_none() -> None:
    model = UNet(ModelConfig(4, 1)).eval()
    images = 255 * torch.rand(1, 3, 32, 32)
    correction = Correction(0.5, 0.25, 0.5, 4.0)
    assert correction(torch.tensor([-6.0, 2.0])).tolist() == [-3.0 + 0.25 - 1.0, 1.25]
    with torch.inference_mode():
        before = model(images)
        torch.testing.assert_close(Calibrated(model, correction)(images), correction(before))
        assert torch.equal(Calibrated(model, Correction())(images), before)
    assert not any("calibration" in name for name in model.state_dict())

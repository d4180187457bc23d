"""Lids, glasses and shade: what they change, and what they leave as it is."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from train.augment import augment, needs_eyes, plain
from train.config import AugmentConfig, Effect
from train.draw import Draw, draw

SIZE, COUNT = 96, 300
WHOLE = (SIZE, SIZE)
SKIN, EYE, BROW = 150, 240, 40
EYES = np.tile(np.array([[30.0, 48.0], [66.0, 48.0]], np.float32), (COUNT, 1, 1))


def faces() -> tuple[Tensor, Tensor]:
    """Return skin with bright eyes, rows 44 to 51, and a dark band of brows far above."""
    mask = torch.zeros(COUNT, *WHOLE, dtype=torch.uint8)
    mask[:, 44:52, 22:38] = mask[:, 44:52, 58:74] = 255
    image = torch.where(mask > 0, EYE, SKIN).to(torch.uint8)
    image[:, 20:26] = BROW
    return image.unsqueeze(3).repeat(1, 1, 1, 3), mask


def numbers(eyes: np.ndarray = EYES, **effects: Effect) -> Draw:
    return draw(replace(AugmentConfig.off(), **effects), SIZE, (0, 0, 0), eyes, WHOLE)


def halves(masks: Tensor) -> Tensor:
    """Return how much of each eye is left, N x 2."""
    left, right = masks.split(SIZE // 2, dim=3)
    return torch.stack([part.sum(dim=(1, 2, 3)) / (8 * 16) for part in (left, right)], dim=1)


def test_lids_take_the_eye_from_picture_and_mask_from_above() -> None:
    images, masks = augment(*faces(), numbers(lids=Effect(1, 1)), WHOLE)
    before, truth = plain(*faces())
    bright = (images[:, :1] > (EYE + SKIN) / 2).float()
    assert (bright - masks).abs().sum(dim=(1, 2, 3)).max() <= 32, (
        "an eye without truth, or bare truth"
    )
    left = halves(masks)
    shut, wink = (left == 0).all(dim=1), ((left == 0) | (left == 1)).all(dim=1) & (left.sum(1) == 1)
    assert 0.4 < shut.float().mean() < 0.62
    assert 0.04 < wink.float().mean() < 0.2
    partly = left[(left > 0) & (left < 1)]
    assert len(partly) > 50
    assert 0.1 < partly.min() < partly.max() < 0.9
    lowest = masks[:, 0, 51].sum(dim=1)
    assert set(lowest.tolist()) <= {0.0, 16.0, 32.0}, "what is left of an eye is its lower part"
    changed = ((images - before).abs() > 1e-3).any(dim=1)
    assert not changed[:, 54:].any()
    assert not changed[:, :26].any(), "the brow stays where it is"
    assert bool((masks <= truth).all())


def test_glasses_leave_the_mask_and_everything_that_is_far_from_them() -> None:
    drawn = numbers(glasses=Effect(1, 0.8))
    images, masks = augment(*faces(), drawn, WHOLE)
    before, truth = plain(*faces())
    assert torch.equal(masks, truth)
    changed = ((images - before).abs() > 0.5).any(dim=1)
    assert not changed[:, :20].any()
    assert not changed[:, 80:].any()
    assert 0.05 < float(changed.float().mean()) < 0.5
    glass, rim = drawn.scene.glass, drawn.scene.rim
    framed = (images - torch.from_numpy(rim[:, 1:, None, None]).float()).abs().amax(dim=1) < 1
    nose = framed[:, 40:60, 47:49].any(dim=(1, 2))
    thick = torch.from_numpy(rim[:, 0] > 1.8)
    assert nose[thick].float().mean() > 0.9, "the frame crosses the nose in its colour"
    dark, clear = (glass[:, 0] > 0.5) & (glass[:, 2:5].max(axis=1) < 60), glass[:, 0] < 0.1
    plainly = (glass[:, 5] == 0) & (glass[:, 6] == 0)
    seen = images[:, :, 46:50, 28:32].mean(dim=(1, 2, 3))
    assert seen[torch.from_numpy(dark & plainly)].max() < 0.75 * EYE
    assert seen[torch.from_numpy(clear & plainly)].min() > 0.85 * EYE
    lit = images[torch.from_numpy(glass[:, 6] > 0.8)].amax(dim=(1, 2, 3)) > EYE
    assert lit.float().mean() > 0.5, "a streak of light, if it crosses the lens"


def test_shade_takes_light_from_all_of_a_picture_or_from_one_side() -> None:
    drawn = numbers(shade=Effect(1, 0.95))
    images, masks = augment(*faces(), drawn, WHOLE)
    before, truth = plain(*faces())
    assert torch.equal(masks, truth)
    shade = drawn.scene.shade
    left = torch.from_numpy(np.exp(shade[:, 0]) ** (1 / 2.2)).float()
    assert 0.25 < left.min() < 0.35
    assert left.max() > 0.95
    quiet, evenly = shade[:, 6] == 0, shade[:, 5] == 1
    even = torch.from_numpy(quiet & evenly)
    expected = before[even] * left[even][:, None, None, None]
    torch.testing.assert_close(images[even], expected, rtol=0, atol=0.6)
    hard = torch.from_numpy(quiet & ~evenly & (shade[:, 4] < 0.01))
    share = images[hard] / before[hard]
    assert torch.allclose(share.amax(dim=(1, 2, 3)), torch.ones(1), atol=0.02)
    torch.testing.assert_close(share.amin(dim=(1, 2, 3)), left[hard], rtol=0.05, atol=0.02)
    noisy = torch.from_numpy(~quiet & evenly) & (left < 0.5)
    assert images[noisy][:, :, 60:80].std(dim=(1, 2, 3)).min() > 0.5


def test_a_picture_of_one_eye_gets_no_lids_and_no_glasses() -> None:
    one = EYES[:, [0, 0]]
    drawn = numbers(one, lids=Effect(1, 1), glasses=Effect(1, 1))
    assert not drawn.scene.closing.any()
    assert not drawn.scene.wearing.any()
    images, masks = augment(*faces(), drawn, WHOLE)
    before, truth = plain(*faces())
    torch.testing.assert_close(images, before, rtol=0, atol=1e-3)
    assert torch.equal(masks, truth)


def test_each_effect_is_told_where_the_eyes_are() -> None:
    assert not needs_eyes(AugmentConfig.off())
    for name in ("hide", "lids", "glasses", "shade"):
        assert needs_eyes(replace(AugmentConfig.off(), **{name: Effect(0.5, 0.5)})), name

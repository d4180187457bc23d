"""Binary cross-entropy plus soft Dice."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

# Pixels added to both sides of the Dice ratio: a picture without an eye, rightly predicted empty,
# then costs nothing instead of 0 / 0, at a fraction of an eye's some 300 pixels.
_SMOOTH = 16.0


def bce_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over pictures of cross-entropy + (1 - Dice).

    Cross-entropy gives a gradient everywhere, Dice (Milletari et al., 3DV 2016) makes up for eyes
    being one pixel in a hundred. Both are taken per picture and then averaged, so the mean over
    several processes is the loss of the whole batch. `logits` and `masks` (0 or 1) are
    N x 1 x H x W.
    """
    logits, masks = logits.float(), masks.float()
    cross_entropy = binary_cross_entropy_with_logits(logits, masks)
    probability = logits.sigmoid()
    overlap = (probability * masks).sum(dim=(1, 2, 3))
    total = probability.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3))
    dice = (2 * overlap + _SMOOTH) / (total + _SMOOTH)
    return cross_entropy + (1 - dice).mean()

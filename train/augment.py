"""Augmentation, on the batch's device: what the numbers of `train.draw` do to it.

The same code runs on every device: batched operations of torch, which never wait for a result.
Effects that few pictures have are applied to those few; the host knows which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as nnf

from train.config import AugmentConfig, TrainConfig
from train.data import Batch
from train.device import send
from train.draw import MIDDLE, Draw, draw
from train.scene import Sent, close_lids, take_light, wear_glasses
from train.split import Split

# RGB to YCbCr and back (JFIF 1.02), chroma about 0.
_RGB_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_YCC_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
# The orthonormal DCT-II of 8 values, and the quantisation of ITU-T T.81, tables K.1 and K.2.
_DCT = np.sqrt(np.where(np.arange(8) > 0, 2, 1) / 8)[:, None] * np.cos(
    np.pi * np.arange(8)[:, None] * (2 * np.arange(8) + 1) / 16
)
_LUMA_STEPS = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA_STEPS = np.full((8, 8), 99)
_CHROMA_STEPS[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TEXTURE = 0.8  # contrast of a cover, as a share of the picture's


def plain(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the bytes of a `train.data.Batch` into what the network is shown, without a change.

    Returns N x 3 x H x W float32, RGB in levels of 0..255, channels_last (as the bytes lie), and
    N x 1 x H x W float32, 1 where an eye is, else 0; on the device of the batch.
    """
    return images.permute(0, 3, 1, 2).float(), (masks.unsqueeze(1) >= 128).float()


def augment(
    images: Tensor, masks: Tensor, numbers: Draw, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Apply a draw to a batch; returns what `plain` returns, but of height and width `shape`.

    `shape` is what `draw` was given.
    """
    sent = _sent(numbers, images.device)
    grid = _grid(sent["matrix"], shape)
    if len(sent["closing"]):
        close_lids(grid, masks, sent)
    flow = (grid * (2 / images.shape[1]) - 1).movedim(1, -1)
    pictures, eyes = (
        nnf.grid_sample(planes.float(), flow, padding_mode="border", align_corners=False)
        for planes in (images.permute(0, 3, 1, 2), masks.unsqueeze(1))
    )

    def change(effect: Callable[..., Tensor], flag: str, *more: Any) -> None:
        rows = sent[flag]
        if len(rows):
            some = pictures.index_select(0, rows)
            pictures.index_copy_(0, rows, effect(some, rows, sent, *more))

    change(wear_glasses, "wearing", grid)
    if len(sent["hidden"]):
        _hide(pictures, eyes, grid, sent)
    flat, colour = pictures.flatten(2), sent["colour"]
    flat.copy_(torch.baddbmm(colour[:, :, 3:], colour[:, :, :3], flat))
    if len(sent["shaded"]):
        grain = _grain(sent["grain"].index_select(0, sent["shaded"]), pictures[0].numel())
        change(take_light, "shaded", grid, grain, images.shape[1])
    for effect, flag in ((_blur, "blurred"), (_add_noise, "noisy"), (_compress, "compressed")):
        change(effect, flag)
    pictures = pictures.clamp(0, 255).contiguous(memory_format=torch.channels_last)
    return pictures, (eyes >= 128).float()


def _sent(numbers: Draw, device: torch.device) -> Sent:
    """Send a draw to its device, in two transfers whatever is in it.

    Of flags, the numbers of the pictures that have them arrive; a number for each picture arrives
    as N x 1.
    """
    tables, lists = {}, {"grain": numbers.grain}
    for name, array in numbers.arrays().items():
        if array.dtype == np.bool_:
            lists[name] = np.flatnonzero(array)
        elif name != "grain":
            tables[name] = array
    flat = [array.reshape(len(array), -1) for array in tables.values()]
    table = send(torch.from_numpy(np.concatenate(flat, axis=1).astype(np.float32)), device)
    parts = torch.split(table, [part.shape[1] for part in flat], dim=1)
    sent = {
        name: part if array.ndim == 1 else part.reshape(array.shape)
        for (name, array), part in zip(tables.items(), parts, strict=True)
    }
    whole = send(torch.from_numpy(np.concatenate(list(lists.values()))), device)
    rows = torch.split(whole, list(map(len, lists.values())))
    return sent | dict(zip(lists, rows, strict=True))


def _grid(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return where each pixel of the output lies in the input, N x 2 (x, y) x h x w in pixels."""
    height, width = shape
    x = torch.arange(width, device=matrix.device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=matrix.device, dtype=torch.float32) + 0.5
    across, down, offset = (part[..., None] for part in matrix.unbind(dim=2))
    return (across * x + offset)[:, :, None, :] + (down * y)[:, :, :, None]


def _hide(pictures: Tensor, eyes: Tensor, grid: Tensor, sent: Sent) -> None:
    """Cover a rectangle of the input; its edge is as soft as the warp's interpolation makes it.

    Texture is what the picture shows half its height away.
    """
    rows = sent["hidden"]
    left, top, right, bottom = sent["box"].index_select(0, rows)[:, :, None, None].unbind(dim=1)
    x, y = grid.index_select(0, rows).unbind(dim=1)
    inside = torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y))
    share = (inside + 0.5).clamp(0, 1).unsqueeze(1)
    some = pictures.index_select(0, rows)
    texture = some.roll(some.shape[2] // 2, 2)
    strength = _TEXTURE * sent["textured"].index_select(0, rows)[:, :, None, None]
    colour = sent["cover"].index_select(0, rows)[:, :, None, None]
    colour = colour + strength * (texture - texture.mean(dim=(2, 3), keepdim=True))
    pictures.index_copy_(0, rows, some.lerp(colour, share))
    eyes.index_copy_(0, rows, eyes.index_select(0, rows) * (1 - share))


def _blur(pictures: Tensor, rows: Tensor, sent: Sent) -> Tensor:
    """Convolve with a Gaussian, as two matrix products; at the border it is cut off."""
    sigma = sent["sigma"].index_select(0, rows)

    def weights(side: int) -> Tensor:
        at = torch.arange(side, device=pictures.device)
        bell = torch.exp(-(at**2) / (2 * sigma**2))[:, (at[:, None] - at).abs()]
        return (bell / bell.sum(dim=2, keepdim=True)).unsqueeze(1)

    down, across = weights(pictures.shape[2]), weights(pictures.shape[3])
    blurred: Tensor = down @ pictures @ across.transpose(2, 3)
    return blurred


def _add_noise(pictures: Tensor, rows: Tensor, sent: Sent) -> Tensor:
    grain = _grain(sent["grain"].index_select(0, rows), pictures[0].numel())
    return pictures + (sent["noise"].index_select(0, rows) * grain).view_as(pictures)


def _grain(seeds: Tensor, count: int) -> Tensor:
    """Return standard normal noise, N x count, from N seeds; the same on any device.

    An integer hash (Wellons, "lowbias32", 2018) makes 32 bits of each pixel's number; the sum of
    its four bytes is normally distributed but for the tails (Irwin-Hall), which end at 3.5 sigma.
    """
    numbers = torch.arange(count, device=seeds.device, dtype=torch.int32)
    bits = numbers + seeds.int()[:, None]
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + ((bits >> 24) & 255)
    deviation = float(np.sqrt(4 * (256**2 - 1) / 12))
    return (total.float() - 2 * 255) / deviation


def _compress(pictures: Tensor, rows: Tensor, sent: Sent) -> Tensor:
    """Compress as JPEG does (ITU-T T.81), chroma at half the size, without its lossless steps."""

    def constant(values: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> Tensor:
        return send(torch.from_numpy(values.astype(np.float32)), pictures.device)

    height, width = pictures.shape[2:]
    sides = (0, -width % 16, 0, -height % 16)
    whole = nnf.pad(pictures, sides, mode="replicate") if any(sides) else pictures
    planes = torch.einsum("ij,njhw->nihw", constant(_RGB_TO_YCC), whole.clamp(0, 255))
    quality = sent["quality"].index_select(0, rows)[:, :, None]
    # libjpeg's scale of the steps, in percent (jpeg_quality_scaling).
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    transform = constant(_DCT)

    def quantised(plane: Tensor, steps: Tensor) -> Tensor:
        step = ((steps * percent + 50) / 100).floor().clamp(1, 255)[:, None, None, :, None, :]
        count, channels, high, wide = plane.shape
        blocks = plane.reshape(count, channels, high // 8, 8, wide // 8, 8)
        there = torch.einsum("ui,ncyixj,vj->ncyuxv", transform, blocks, transform)
        back = (there / step).round() * step
        back = torch.einsum("ui,ncyuxv,vj->ncyixj", transform, back, transform)
        return back.reshape(plane.shape)

    luma = quantised(planes[:, :1] - MIDDLE, constant(_LUMA_STEPS)) + MIDDLE
    chroma = quantised(nnf.avg_pool2d(planes[:, 1:], 2), constant(_CHROMA_STEPS))
    chroma = nnf.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    joined = torch.cat([luma, chroma], dim=1)
    decoded = torch.einsum("ij,njhw->nihw", constant(_YCC_TO_RGB), joined)
    result: Tensor = decoded[:, :, :height, :width].clamp(0, 255)
    return result


def needs_eyes(config: AugmentConfig) -> bool:
    """Return whether an augmentation has to know where the eyes are."""
    effects = (config.hide, config.lids, config.glasses, config.shade)
    return config.crop is not None or any(effect.probability for effect in effects)


class AugmentedEpoch:
    """The samples of an epoch, counted from 0: their order, and what the network is shown of them.

    `mine` are this process's rows of a batch of all processes.
    """

    def __init__(self, config: TrainConfig, split: Split, epoch: int, mine: slice) -> None:
        self._stage, self._split, self._mine = config.stage(epoch), split, mine
        self._seed = config.seed, epoch
        self._rows = split.shuffled(config.batch, config.seed, epoch)
        self.order = list(self._rows[:, mine])
        crop, size = self._stage.crop, split.size
        self._shape = crop.pixels(size, config.model.stride) if crop else (size, size)
        self._by_eyes = needs_eyes(self._stage)

    def __call__(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Augment a batch; the numbers are drawn for the batch of all processes."""
        if self._stage == AugmentConfig.off():
            return plain(batch.images, batch.masks)
        rows = self._rows[number]
        nowhere = np.zeros((len(rows), 2, 2), np.float32)
        eyes = self._split.eyes(rows) if self._by_eyes else nowhere
        numbers = draw(self._stage, self._split.size, (*self._seed, number), eyes, self._shape)
        return augment(batch.images, batch.masks, numbers.rows(self._mine), self._shape)

"""Augmentation: random numbers drawn on the host, and what they do, on the batch's device.

The numbers follow from (seed, epoch, step) alone and are drawn for the batch of all processes, so
a resumed run repeats them and each process takes its own rows. What they do is one code for every
device: batched operations of torch, which never wait for a result. Effects that few pictures have
are applied to those few; the host knows which.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as nnf

from train.config import AugmentConfig, Effect
from train.covers import draw_covers
from train.device import send

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# RGB to YIQ (FCC NTSC, 1953) and back: hue is an angle, saturation a length in its I-Q plane.
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_YIQ_TO_RGB = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
_MIDDLE = 128.0
_HUE_DEGREES = 60.0
# Of crops: the share that lies anywhere, and how much more those are enlarged; of the others, how
# many show both eyes; how far off the centre, in shares of the sides.
_ANYWHERE, _ANYWHERE_ZOOM, _BOTH_EYES, _SCATTER = 0.25, 2.0, 0.7, 0.3

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


@dataclass(frozen=True)
class Draw:
    """Random numbers for a batch of N pictures; the first axis of every array is N.

    Attributes
    ----------
    matrix
        N x 2 x 3, output to input in pixels, (0, 0) the corner of the corner pixel.
    hidden, blurred, noisy, compressed
        N bool: whether the effect applies.
    box, cover
        N x 4 and N x 3: left, top, right and bottom of what is covered, in pixels of the input,
        and its colour, RGB in levels.
    colour
        N x 3 x 4: what multiplies R, G and B and, last, what is added, in levels.
    sigma, noise, grain, quality
        N: standard deviation of blur (pixels) and of noise (levels), which noise, JPEG quality.
    """

    matrix: Floats
    hidden: Flags
    box: Floats
    cover: Floats
    colour: Floats
    blurred: Flags
    sigma: Floats
    noisy: Flags
    noise: Floats
    grain: npt.NDArray[np.int64]
    compressed: Flags
    quality: npt.NDArray[np.int64]

    def rows(self, part: slice) -> Draw:
        """Return the numbers of some pictures of the batch."""
        return Draw(**{name: array[part] for name, array in vars(self).items()})


def draw(
    config: AugmentConfig,
    size: int,
    seed: tuple[int, int, int],
    eyes: npt.NDArray[np.float32],
    shape: tuple[int, int],
) -> Draw:
    """Draw the numbers for a batch.

    Parameters
    ----------
    config
        Strengths and probabilities.
    size
        Side of the pictures in pixels.
    seed
        Seed, epoch and step: equal ones draw equal numbers.
    eyes
        N x 2 x 2, x and y in pixels of both eyes of each of N pictures (see `Split.eyes`).
    shape
        Height and width of what is shown, in pixels; `size` twice unless it is a crop.
    """
    count = len(eyes)
    rng = np.random.default_rng((*b"augment", *seed))

    def happens(effect: Effect) -> Flags:
        return rng.random(count) < effect.probability

    def symmetric(effect: Effect) -> Floats:
        on = happens(effect)
        return np.where(on, rng.uniform(-1, 1, count) * effect.strength, 0.0)

    flip = happens(config.flip)
    most = np.log1p(config.larger.strength) * happens(config.larger)
    least = np.log1p(-config.smaller.strength) * happens(config.smaller)
    scale = np.exp(rng.uniform(least, most))
    ratio = Effect(config.aspect.probability, float(np.log1p(config.aspect.strength)))
    stretch = np.exp(0.5 * symmetric(ratio))
    angle = np.deg2rad(symmetric(config.rotation))
    shift = np.stack([symmetric(config.translation), symmetric(config.translation)], axis=1)
    light, grey, tinted = happens(config.light), happens(config.grey), happens(config.colour)
    factors = 1 + config.light.strength * rng.uniform(-1, 1, (2, count)) * light
    saturation = 1 + config.colour.strength * rng.uniform(-1, 1, count) * tinted
    hue = config.colour.strength * _HUE_DEGREES * rng.uniform(-1, 1, count) * tinted
    blurred, noisy, compressed = map(happens, (config.blur, config.noise, config.jpeg))
    if config.crop:
        source, target, anywhere = _crop_places(rng, eyes, size, shape)
        scale = scale * np.where(anywhere, rng.uniform(1, _ANYWHERE_ZOOM, count), 1)
    else:
        source = np.full((count, 2), size / 2)
        target = source + shift * size
    hidden = happens(config.hide)
    first, last, cover = draw_covers(rng, eyes, size, config.hide.strength)
    sigma = rng.uniform(0.3, max(0.31, config.blur.strength), count)
    noise = rng.uniform(0.1, 1, count) * config.noise.strength
    worst = 100 - config.jpeg.strength
    quality = rng.uniform(worst, max(worst, 90) + 1, count)
    return Draw(
        matrix=_matrices(flip, scale, stretch, angle, source, target),
        hidden=hidden & (last > first).all(axis=1),
        box=np.concatenate([first, last], axis=1),
        cover=np.rint(cover),
        colour=_colours(factors[0], factors[1], np.where(grey, 0.0, saturation), hue),
        blurred=blurred,
        sigma=sigma,
        noisy=noisy,
        noise=noise,
        grain=rng.integers(1 << 30, size=count),
        compressed=compressed,
        quality=quality.astype(np.int64).clip(1, 100),
    )


def _crop_places(
    rng: np.random.Generator, eyes: npt.NDArray[np.float32], size: int, shape: tuple[int, int]
) -> tuple[Floats, Floats, Flags]:
    """Choose a point of each picture, N x 2, where in the crop it lies, N x 2, if anywhere, N.

    The point is between the eyes, on one of them or anywhere; it lies within 0.3 of the crop's
    sides from its centre.
    """
    count = len(eyes)
    one = eyes[np.arange(count), rng.integers(2, size=count)]
    point = np.where(rng.random((count, 1)) < _BOTH_EYES, eyes.mean(axis=1), one)
    anywhere = rng.random((count, 1)) < _ANYWHERE
    point = np.where(anywhere, rng.uniform(0, size, (count, 2)), point)
    place = np.array(shape[::-1]) * (0.5 + rng.uniform(-_SCATTER, _SCATTER, (count, 2)))
    return point, place, anywhere[:, 0]


def _matrices(
    flip: Flags, scale: Floats, stretch: Floats, angle: Floats, source: Floats, target: Floats
) -> Floats:
    """Return N x 2 x 3 maps from output to input that take the points `target` to `source`."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    mirror, upright = np.where(flip, -1.0, 1.0) / stretch, stretch
    linear = np.stack([mirror * cos, mirror * -sin, upright * sin, upright * cos], axis=1)
    linear = linear.reshape(-1, 2, 2)
    offset = source - np.einsum("nij,nj->ni", linear, target)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def _colours(brightness: Floats, contrast: Floats, saturation: Floats, hue: Floats) -> Floats:
    """Return N x 3 x 4: contrast about the middle and brightness, then hue and saturation."""
    cos, sin = (f(np.deg2rad(hue)) * saturation for f in (np.cos, np.sin))
    turn = np.zeros((len(hue), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, sin, -sin, cos
    twist = _YIQ_TO_RGB @ turn @ _RGB_TO_YIQ
    # The two tables are rounded: what is not to be changed must stay as it is.
    twist[(saturation == 1) & (hue == 0)] = np.eye(3)
    scaled = twist * (brightness * contrast)[:, None, None]
    added = twist.sum(axis=2) * (brightness * (1 - contrast) * _MIDDLE)[:, None]
    return np.concatenate([scaled, added[:, :, None]], axis=2)


def plain(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a batch of bytes into what the network is shown, without a change.

    Parameters
    ----------
    images, masks
        N x H x W x 3 uint8 RGB and N x H x W uint8 of 0 and 255, as in `train.data.Batch`.

    Returns
    -------
    images, masks
        N x 3 x H x W float32, RGB in levels of 0..255, channels_last (as the bytes lie), and
        N x 1 x H x W float32, 1 where an eye is, else 0; on the device of the batch.
    """
    return images.permute(0, 3, 1, 2).float(), (masks.unsqueeze(1) >= 128).float()


def augment(
    images: Tensor, masks: Tensor, numbers: Draw, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Apply a draw to a batch.

    Parameters
    ----------
    images, masks
        As in `plain`.
    numbers
        What was drawn for them.
    shape
        What `draw` was given.

    Returns
    -------
    images, masks
        As in `plain`, but of height and width `shape`.
    """
    sent = _Sent(numbers, images.device)
    grid = _grid(sent.matrix, shape)
    flow = (grid * (2 / images.shape[1]) - 1).movedim(1, -1)
    pictures, eyes = (
        nnf.grid_sample(planes.float(), flow, padding_mode="border", align_corners=False)
        for planes in (images.permute(0, 3, 1, 2), masks.unsqueeze(1))
    )
    if len(sent.hidden):
        _hide(pictures, eyes, grid, sent)
    _recolour(pictures, sent.colour)
    for effect, rows in ((_blur, sent.blurred), (_add_noise, sent.noisy),
                         (_compress, sent.compressed)):  # fmt: skip
        if len(rows):
            pictures.index_copy_(0, rows, effect(pictures.index_select(0, rows), rows, sent))
    pictures = pictures.clamp(0, 255).contiguous(memory_format=torch.channels_last)
    return pictures, (eyes >= 128).float()


class _Sent:
    """A draw on its device: two transfers, whatever is in it."""

    def __init__(self, numbers: Draw, device: torch.device) -> None:
        columns = (numbers.matrix, numbers.box, numbers.cover, numbers.colour, numbers.sigma,
                   numbers.noise, numbers.quality)  # fmt: skip
        count = len(numbers.sigma)
        flat = [np.reshape(column, (count, -1)) for column in columns]
        table = torch.from_numpy(np.concatenate(flat, axis=1).astype(np.float32))
        flags = (numbers.hidden, numbers.blurred, numbers.noisy, numbers.compressed)
        lists = [np.flatnonzero(flag) for flag in flags]
        whole = torch.from_numpy(np.concatenate([numbers.grain, *lists]))
        table, whole = send(table, device), send(whole, device)
        parts = torch.split(table, [part.shape[1] for part in flat], dim=1)
        self.matrix, self.box, self.cover, self.colour = parts[:4]
        self.sigma, self.noise, self.quality = parts[4:]
        self.matrix, self.colour = self.matrix.view(-1, 2, 3), self.colour.view(-1, 3, 4)
        self.grain, self.hidden, self.blurred, self.noisy, self.compressed = torch.split(
            whole, [count, *map(len, lists)]
        )


def _grid(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return where each pixel of the output lies in the input, N x 2 (x, y) x h x w in pixels."""
    height, width = shape
    x = torch.arange(width, device=matrix.device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=matrix.device, dtype=torch.float32) + 0.5
    across, down, offset = (part[..., None] for part in matrix.unbind(dim=2))
    return (across * x + offset)[:, :, None, :] + (down * y)[:, :, :, None]


def _hide(pictures: Tensor, eyes: Tensor, grid: Tensor, sent: _Sent) -> None:
    """Cover a rectangle of the input; its edge is as soft as the warp's interpolation makes it."""
    rows = sent.hidden
    left, top, right, bottom = sent.box.index_select(0, rows)[:, :, None, None].unbind(dim=1)
    x, y = grid.index_select(0, rows).unbind(dim=1)
    inside = torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y))
    share = (inside + 0.5).clamp(0, 1).unsqueeze(1)
    colour = sent.cover.index_select(0, rows)[:, :, None, None]
    pictures.index_copy_(0, rows, pictures.index_select(0, rows).lerp(colour, share))
    eyes.index_copy_(0, rows, eyes.index_select(0, rows) * (1 - share))


def _recolour(pictures: Tensor, colour: Tensor) -> None:
    """Mix the channels, in place."""
    flat = pictures.flatten(2)
    flat.copy_(torch.baddbmm(colour[:, :, 3:], colour[:, :, :3], flat))


def _blur(pictures: Tensor, rows: Tensor, sent: _Sent) -> Tensor:
    """Convolve with a Gaussian, as two matrix products; at the border it is cut off."""
    sigma = sent.sigma.index_select(0, rows)

    def weights(side: int) -> Tensor:
        at = torch.arange(side, device=pictures.device)
        bell = torch.exp(-(at**2) / (2 * sigma**2))[:, (at[:, None] - at).abs()]
        return (bell / bell.sum(dim=2, keepdim=True)).unsqueeze(1)

    down, across = weights(pictures.shape[2]), weights(pictures.shape[3])
    blurred: Tensor = down @ pictures @ across.transpose(2, 3)
    return blurred


def _add_noise(pictures: Tensor, rows: Tensor, sent: _Sent) -> Tensor:
    """Add noise that follows from `grain` and the pixel's number alone, the same on any device.

    An integer hash (Wellons, "lowbias32", 2018) makes 32 bits of each pixel's number; the sum of
    its four bytes is normally distributed but for the tails (Irwin-Hall), which end at 3.5 sigma.
    """
    numbers = torch.arange(pictures[0].numel(), device=pictures.device, dtype=torch.int32)
    bits = numbers + sent.grain.index_select(0, rows).int()[:, None]
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + ((bits >> 24) & 255)
    deviation = float(np.sqrt(4 * (256**2 - 1) / 12))
    levels = (total.float() - 2 * 255) * (sent.noise.index_select(0, rows) / deviation)
    return pictures + levels.view_as(pictures)


def _compress(pictures: Tensor, rows: Tensor, sent: _Sent) -> Tensor:
    """Compress as JPEG does (ITU-T T.81), chroma at half the size, but for entropy coding."""

    def constant(values: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> Tensor:
        return send(torch.from_numpy(values.astype(np.float32)), pictures.device)

    height, width = pictures.shape[2:]
    sides = (0, -width % 16, 0, -height % 16)
    whole = nnf.pad(pictures, sides, mode="replicate") if any(sides) else pictures
    planes = torch.einsum("ij,njhw->nihw", constant(_RGB_TO_YCC), whole.clamp(0, 255))
    quality = sent.quality.index_select(0, rows)[:, :, None]
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

    luma = quantised(planes[:, :1] - _MIDDLE, constant(_LUMA_STEPS)) + _MIDDLE
    chroma = quantised(nnf.avg_pool2d(planes[:, 1:], 2), constant(_CHROMA_STEPS))
    chroma = nnf.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    joined = torch.cat([luma, chroma], dim=1)
    decoded = torch.einsum("ij,njhw->nihw", constant(_YCC_TO_RGB), joined)
    result: Tensor = decoded[:, :, :height, :width].clamp(0, 255)
    return result

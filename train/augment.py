"""Augmentation: the random numbers, and what they do to one picture.

The numbers are drawn here for both loaders, from (seed, epoch, step) alone, so that DALI's graph
and the portable twin show the network the same pictures, a resumed run repeats them, and each of
several processes draws its own part of the whole batch. `train.dali_loader` applies them inside
the DALI graph; `augment` below is the same on arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from train.config import AugmentConfig, Effect, Window
from train.covers import draw_covers

Floats = npt.NDArray[np.float32]

# RGB to YIQ (FCC NTSC, 1953) and back, the numbers that DALI's color_twist uses.
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_YIQ_TO_RGB = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
_MIDDLE = 128.0
_HUE_DEGREES = 60.0
_BACKGROUND_ZOOM = 2.0  # crops of the background are enlarged up to so much more
_BOTH_EYES, _SCATTER = 0.7, 0.3  # of crops: how many show both eyes, and how far off their centre
_NOISE_STARTS = 1 << 20  # places in the table of noise where a row of pixels may begin
_NOISE_STRIDE = 389_927  # from one row's place to the next: a prime, so that no rows repeat


@dataclass(frozen=True)
class Draw:
    """Random numbers for a batch of N pictures; the first axis of every array is N.

    Attributes
    ----------
    matrix
        N x 3 x 3 float32, output to input in pixels, (0, 0) the corner of the corner pixel.
    moved, hidden, twisted, blurred, noisy, compressed
        N bool: whether the effect applies.
    anchor, extent
        N x 2 float32 (as DALI wants them), y and x: corner and size of the covered rectangle, in
        whole pixels.
    cover
        N x 3 float32, its colour, RGB in levels.
    brightness, contrast, saturation, hue, sigma, noise
        N float32: two factors, a factor, degrees, pixels, levels.
    grain
        N int32: where the noise pattern begins (see `noise_levels`).
    quality
        N int32, JPEG quality.
    """

    matrix: Floats
    moved: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    anchor: Floats
    extent: Floats
    cover: Floats
    brightness: Floats
    contrast: Floats
    twisted: npt.NDArray[np.bool_]
    saturation: Floats
    hue: Floats
    blurred: npt.NDArray[np.bool_]
    sigma: Floats
    noisy: npt.NDArray[np.bool_]
    noise: Floats
    grain: npt.NDArray[np.int32]
    compressed: npt.NDArray[np.bool_]
    quality: npt.NDArray[np.int32]

    @property
    def window(self) -> npt.NDArray[np.int32]:
        """N int32: width of each Gaussian's window in pixels, two sigma to either side; odd."""
        return (2 * np.ceil(2 * self.sigma) + 1).astype(np.int32)

    def rows(self, part: slice) -> Draw:
        """Return the numbers of some pictures of the batch."""
        return Draw(**{name: array[part] for name, array in vars(self).items()})


def draw(
    config: AugmentConfig,
    size: int,
    seed: tuple[int, ...],
    eyes: Floats,
    window: Window | None = None,
) -> Draw:
    """Draw the numbers for a batch.

    Parameters
    ----------
    config
        Strengths and probabilities.
    size
        Side of the pictures in pixels.
    seed
        Entropy; equal seeds draw equal numbers.
    eyes
        N x 2 x 2, x and y in pixels of both eyes of each of N pictures (see `train.eyes`); used
        for crops and for `hide`.
    window
        Take parts of this size instead of whole pictures.
    """
    count = len(eyes)
    rng = np.random.default_rng((*b"augment", *seed))

    def happens(effect: Effect) -> npt.NDArray[np.bool_]:
        return rng.random(count) < effect.probability

    def symmetric(effect: Effect) -> npt.NDArray[np.float64]:
        on = happens(effect)
        return np.where(on, rng.uniform(-1, 1, count) * effect.strength, 0.0)

    flip = happens(config.flip)
    most = np.log1p(config.larger.strength) * happens(config.larger)
    least = np.log1p(-config.smaller.strength) * happens(config.smaller)
    scale = np.exp(rng.uniform(least, most))
    stretch = np.exp(0.5 * symmetric(Effect(config.aspect.probability,
                                            float(np.log1p(config.aspect.strength)))))  # fmt: skip
    angle = np.deg2rad(symmetric(config.rotation))
    shift = np.stack([symmetric(config.translation), symmetric(config.translation)], axis=1)
    light, grey, colour = happens(config.light), happens(config.grey), happens(config.colour)
    factors = 1 + config.light.strength * rng.uniform(-1, 1, (2, count)) * light
    saturation = 1 + config.colour.strength * rng.uniform(-1, 1, count) * colour
    hue = config.colour.strength * _HUE_DEGREES * rng.uniform(-1, 1, count) * colour
    blurred, noisy, compressed = (
        happens(config.blur), happens(config.noise), happens(config.jpeg)
    )  # fmt: skip
    worst = 100 - config.jpeg.strength
    middle = np.full((count, 2), size / 2)
    if window:
        source, target, anywhere = _crop_places(rng, eyes, size, window)
        scale = scale * np.where(anywhere, rng.uniform(1, _BACKGROUND_ZOOM, count), 1)
    else:
        source, target = middle, middle + shift * size
    matrix = _matrices(flip, scale, stretch, angle, source, target)
    hidden = happens(config.hide)
    anchor, extent, cover = draw_covers(rng, eyes, size, config.hide.strength)
    sigma = rng.uniform(0.3, max(0.31, config.blur.strength), count)
    noise = rng.uniform(0.1, 1, count) * config.noise.strength
    quality = rng.uniform(worst, max(worst, 90) + 1, count)
    grain = rng.integers(_NOISE_STARTS, size=count)
    still = ~flip & (scale == 1) & (stretch == 1) & (angle == 0) & (source == target).all(axis=1)
    return Draw(
        matrix=matrix.astype(np.float32),
        moved=~still | bool(window),
        hidden=hidden & (extent > 0).all(axis=1),
        anchor=anchor,
        extent=extent,
        cover=cover,
        brightness=factors[0].astype(np.float32),
        contrast=factors[1].astype(np.float32),
        twisted=grey | colour,
        saturation=np.where(grey, 0.0, saturation).astype(np.float32),
        hue=hue.astype(np.float32),
        blurred=blurred,
        sigma=sigma.astype(np.float32),
        noisy=noisy,
        noise=noise.astype(np.float32),
        grain=grain.astype(np.int32),
        compressed=compressed,
        quality=quality.astype(np.int32).clip(1, 100),
    )


def _crop_places(
    rng: np.random.Generator, eyes: Floats, size: int, window: Window
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Choose a point of each picture, N x 2, where in the window it lies, N x 2, if anywhere, N.

    The point is between the eyes, on one of them or, for the background, anywhere; it lies within
    0.3 of the window's sides from its centre.
    """
    count = len(eyes)
    one = eyes[np.arange(count), rng.integers(2, size=count)]
    point = np.where(rng.random((count, 1)) < _BOTH_EYES, eyes.mean(axis=1), one)
    anywhere = rng.random((count, 1)) < window.background
    point = np.where(anywhere, rng.uniform(0, size, (count, 2)), point)
    sides = np.array([window.width, window.height])
    place = sides * (0.5 + rng.uniform(-_SCATTER, _SCATTER, (count, 2)))
    return point, place, anywhere[:, 0]


def _matrices(
    flip: npt.NDArray[np.bool_],
    scale: npt.NDArray[np.float64],
    stretch: npt.NDArray[np.float64],
    angle: npt.NDArray[np.float64],
    source: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return N x 3 x 3 maps from output to input that take the points `target` to `source`."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    mirror, upright = np.where(flip, -1.0, 1.0) / stretch, stretch
    matrix = np.zeros((len(flip), 3, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = mirror * cos, mirror * -sin
    matrix[:, 1, 0], matrix[:, 1, 1] = upright * sin, upright * cos
    matrix[:, 2, 2] = 1
    matrix[:, :2, 2] = source - np.einsum("nij,nj->ni", matrix[:, :2, :2], target)
    return matrix


def augment(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    numbers: Draw,
    row: int,
    window: Window | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Apply one row of a draw to arrays, as DALI's graph does on a GPU.

    Parameters
    ----------
    image
        H x W x 3, uint8, RGB.
    mask
        H x W, uint8, 0 or 255.
    numbers, row
        What was drawn, and which picture of the batch this is.
    window
        What `draw` was given.

    Returns
    -------
    image, mask
        Same types, and shapes unless cropped; the mask has intermediate levels along its edge.
    """
    if numbers.hidden[row]:
        top, left = numbers.anchor[row].astype(int)
        high, wide = numbers.extent[row].astype(int)
        box = slice(top, top + high), slice(left, left + wide)
        image, mask = image.copy(), mask.copy()
        image[box], mask[box] = np.rint(numbers.cover[row]), 0
    if numbers.moved[row]:
        height, width = (window.height, window.width) if window else mask.shape
        image, mask = _warp(image, mask, numbers.matrix[row], height, width)
    factor = np.float32(numbers.brightness[row])
    contrast = np.float32(numbers.contrast[row])
    if factor != 1 or contrast != 1:
        offset = float(factor * (_MIDDLE - contrast * _MIDDLE))
        line = np.arange(256) * np.float32(factor * contrast) + np.float32(offset)
        table = np.clip(np.rint(line), 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table), np.uint8)
    if numbers.twisted[row]:
        matrix = _twist(float(numbers.saturation[row]), float(numbers.hue[row]))
        image = np.asarray(cv2.transform(image, matrix), np.uint8)
    if numbers.blurred[row]:
        sigma = float(numbers.sigma[row])
        side = int(numbers.window[row])
        image = np.asarray(cv2.GaussianBlur(image, (side, side), sigma), np.uint8)
    if numbers.noisy[row]:
        noise = noise_levels(numbers, row, *image.shape[:2])
        image = np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)
    if numbers.compressed[row]:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(numbers.quality[row])]
        data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
    return image, mask


def noise_levels(numbers: Draw, row: int, height: int, width: int) -> npt.NDArray[np.int16]:
    """Return Gaussian noise for one picture, H x W x 3, in levels.

    Rows are taken from one table at places that follow from `Draw.grain`: making normally
    distributed numbers anew takes longer than decoding the picture.
    """
    starts = (int(numbers.grain[row]) + _NOISE_STRIDE * np.arange(height)) % _NOISE_STARTS
    rows = np.lib.stride_tricks.sliding_window_view(_noise_table(3 * width), 3 * width)[starts]
    levels = np.rint(rows * numbers.noise[row]).astype(np.int16)
    return np.asarray(levels.reshape(height, width, 3), np.int16)


@cache
def _noise_table(row: int) -> Floats:
    rng = np.random.default_rng((*b"noise", row))
    return rng.standard_normal(_NOISE_STARTS + row, np.float32)


def _warp(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    matrix: Floats,
    height: int,
    width: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Warp both as one picture of four channels, at less than OpenCV takes for three alone."""
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    # What the result shows, and a little more for the interpolation: the rest need not be joined.
    columns = _reach(x, a * width, b * height, mask.shape[1])
    rows = _reach(y, c * width, d * height, mask.shape[0])
    both = cv2.cvtColor(image[rows, columns], cv2.COLOR_RGB2RGBA)
    cv2.insertChannel(mask[rows, columns], both, 3)
    # OpenCV puts (0, 0) at the centre of the corner pixel.
    x += (a + b) / 2 - 0.5 - columns.start
    y += (c + d) / 2 - 0.5 - rows.start
    affine = np.array([[a, b, x], [c, d, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        both, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    eyes = cv2.extractChannel(warped, 3)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8), np.asarray(eyes)


def _reach(start: float, across: float, down: float, size: int) -> slice:
    """Return which of `size` pixels lie between the corners of a parallelogram; at least one."""
    low = math.floor(start + min(0.0, across) + min(0.0, down)) - 2
    high = math.ceil(start + max(0.0, across) + max(0.0, down)) + 2
    first = min(max(low, 0), size - 1)
    return slice(first, max(min(high, size), first + 1))


def _twist(saturation: float, hue: float) -> Floats:
    """Return the 3 x 3 matrix that DALI's color_twist makes of saturation and hue (degrees)."""
    cos, sin = np.cos(np.deg2rad(hue)), np.sin(np.deg2rad(hue))
    turn = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    fade = np.diag([1, saturation, saturation])
    return np.asarray(_YIQ_TO_RGB @ turn @ fade @ _RGB_TO_YIQ, np.float32)

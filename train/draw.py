"""Random numbers of the augmentation, drawn on the host for the batch of all processes.

They follow from (seed, epoch, step) alone, so a resumed run repeats them and each process takes
its own rows. `train.augment` says what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from train.config import AugmentConfig, Effect
from train.covers import draw_covers
from train.scene import Flags, Floats, Scene, draw_scene
from train.split import Centres

# RGB to YIQ (FCC NTSC, 1953) and back: hue is an angle, saturation a length in its I-Q plane.
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_YIQ_TO_RGB = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
MIDDLE = 128.0  # levels
_HUE_DEGREES = 60.0
# Of crops: the share that lies anywhere, and how much more those are enlarged; of the others, how
# many show both eyes; how far off the centre, in shares of the sides.
_ANYWHERE, _ANYWHERE_ZOOM, _BOTH_EYES, _SCATTER = 0.25, 2.0, 0.7, 0.3
_TEXTURED = 0.5  # of covers: those with texture


@dataclass(frozen=True)
class Draw:
    """Random numbers for a batch of N pictures; the first axis of every array is N.

    Flags say whether an effect applies.
    """

    matrix: Floats  # N x 2 x 3, output to input in pixels, (0, 0) the corner of the corner pixel
    hidden: Flags
    box: Floats  # N x 4: left, top, right and bottom of what is covered, in pixels of the input
    cover: Floats  # N x 3: its colour, RGB in levels
    textured: Floats  # N: 1 if it has texture
    colour: Floats  # N x 3 x 4: what multiplies R, G and B and, last, what is added, in levels
    blurred: Flags
    sigma: Floats  # N: standard deviation in pixels
    noisy: Flags
    noise: Floats  # N: standard deviation in levels
    grain: npt.NDArray[np.int64]  # N: which noise
    compressed: Flags
    quality: npt.NDArray[np.int64]  # N
    scene: Scene

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all arrays by name."""
        own = {name: value for name, value in vars(self).items() if name != "scene"}
        return own | vars(self.scene)

    def rows(self, part: slice) -> Draw:
        """Return the numbers of some pictures of the batch."""
        cut = {name: array[part] for name, array in self.arrays().items()}
        scene = Scene(**{name: cut.pop(name) for name in vars(self.scene)})
        return Draw(**cut, scene=scene)


def draw(
    config: AugmentConfig, size: int, seed: tuple[int, int, int], eyes: Centres,
    shape: tuple[int, int],
) -> Draw:  # fmt: skip
    """Draw the numbers for a batch of pictures of side `size`.

    `seed` is seed, epoch and step: equal ones draw equal numbers. `eyes` is N x 2 x 2, from
    `Split.eyes`. `shape` is height and width of what is shown, in pixels; `size` twice unless it
    is a crop.
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
    light, grey, tinted = map(happens, (config.light, config.grey, config.colour))
    colour = _colours(rng, config, light, grey, tinted)
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
    quality = rng.uniform(worst, max(worst, 90) + 1, count).astype(np.int64).clip(1, 100)
    matrix = _matrices(flip, scale, stretch, angle, source, target)
    hidden &= (last > first).all(axis=1)
    box, scene = np.concatenate([first, last], axis=1), draw_scene(rng, config, eyes)
    textured = (rng.random(count) < _TEXTURED).astype(np.float64)
    grain = rng.integers(1 << 30, size=count)
    return Draw(matrix, hidden, box, np.rint(cover), textured, colour, blurred, sigma, noisy, noise,
                grain, compressed, quality, scene)  # fmt: skip


def _crop_places(
    rng: np.random.Generator, eyes: Centres, size: int, shape: tuple[int, int]
) -> tuple[Floats, Floats, Flags]:
    """Choose a point of each picture, N x 2, where in the crop it lies, N x 2, if anywhere, N."""
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


def _colours(
    rng: np.random.Generator, config: AugmentConfig, light: Flags, grey: Flags, tinted: Flags
) -> Floats:
    """Return N x 3 x 4: contrast about the middle and brightness, then hue and saturation."""
    count = len(light)
    brightness, contrast = 1 + config.light.strength * rng.uniform(-1, 1, (2, count)) * light
    saturation = 1 + config.colour.strength * rng.uniform(-1, 1, count) * tinted
    saturation = np.where(grey, 0.0, saturation)
    hue = config.colour.strength * _HUE_DEGREES * rng.uniform(-1, 1, count) * tinted
    cos, sin = (f(np.deg2rad(hue)) * saturation for f in (np.cos, np.sin))
    turn = np.zeros((count, 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, sin, -sin, cos
    twist = _YIQ_TO_RGB @ turn @ _RGB_TO_YIQ
    # The two tables are rounded: what is not to be changed must stay as it is.
    twist[(saturation == 1) & (hue == 0)] = np.eye(3)
    scaled = twist * (brightness * contrast)[:, None, None]
    added = twist.sum(axis=2) * (brightness * (1 - contrast) * MIDDLE)[:, None]
    return np.concatenate([scaled, added[:, :, None]], axis=2)

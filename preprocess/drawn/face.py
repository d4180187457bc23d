"""Draw the head without its eyes: background, clothes, skin, mouth and hair.

All of it is soft, so it is drawn upright at a lower resolution and enlarged into the picture.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.drawn.look import EYE_DEPTH, EYE_X, Look
from preprocess.drawn.paint import Array, edge, hill, lay, noise

_SPAN = 0.7  # the upright frame reaches this far from the origin
# Hills of the face: x, depth, y, width, height, rise. What is beside the middle is mirrored.
_RELIEF = (
    (0, 0.250, -0.03, 0.030, 0.060, 0.012),  # bridge of the nose
    (0, 0.275, 0.06, 0.032, 0.060, 0.030),
    (0, 0.300, 0.115, 0.038, 0.034, 0.034),  # tip of the nose
    (0.034, 0.270, 0.130, 0.018, 0.018, 0.014),  # wing of the nose
    (0.101, 0.230, -0.005, 0.065, 0.035, -0.020),  # socket of the eye
    (0.121, 0.230, -0.085, 0.080, 0.030, 0.010),  # ridge of the brow
    (0.125, 0.220, 0.105, 0.060, 0.050, 0.016),  # cheek
    (0, 0.270, 0.345, 0.060, 0.040, 0.022),  # chin
)
# Where light does not reach: the same, with the share of light that is lost.
_SHADOWS = (
    (0, 0.280, 0.158, 0.045, 0.012, 0.3),  # under the nose
    (0.021, 0.290, 0.149, 0.011, 0.006, 0.7),  # nostril
    (0, 0.280, 0.275, 0.050, 0.014, 0.2),  # under the lips
    (0.065, 0.240, -0.012, 0.026, 0.030, 0.16),  # inner corner of the eye
)
_BLUSH = ((0.14, 0.2, 0.1, 0.06, 0.05, 1), (0, 0.3, 0.12, 0.03, 0.03, 0.7))  # cheeks, nose


def draw_head(rng: np.random.Generator, look: Look) -> tuple[Array, Array]:
    """Draw everything but eyes and glasses; return `image` and `cover`."""
    n = int(max(0.27 * look.size, 150) * 2 * _SPAN)
    step = 2 * _SPAN / n
    axis = ((np.arange(n) + 0.5) * step - _SPAN).astype(np.float32)
    x, y = axis[None] - np.float32(look.turned(0, 0)), axis[:, None]  # x from the head's middle
    jaw = 1 - np.clip(y / rng.uniform(0.35, 0.39), 0, 1) ** rng.uniform(2.2, 3.0)
    oval = look.width * np.where(y < 0, (1 - np.clip(-y / 0.43, 0, 1) ** 2.3) ** 0.5, jaw**0.6)
    ears = 0.03 * (1 - np.hypot((np.abs(x) - look.width) / 0.03, (y - 0.05) / 0.075))
    head = edge(np.maximum(oval - np.abs(x), ears) - 2 * step, 3 * step)
    hair, front, strands = _hair(rng, look, x, y, head)
    frame = lay(_background(rng, n), 0.7 * strands, hair)
    frame = _neck_and_clothes(rng, look, frame, x, y)
    skin = _mouth(rng, look, _skin(rng, look, axis[None], y), axis[None], y)
    skin *= 1 - 0.4 * cv2.blur(front, (n // 40 | 1,) * 2)[..., None]  # hair shades the skin
    frame = lay(lay(frame, skin, head), strands, front)
    frame = np.dstack((np.clip(frame, 0, 255), front * 255)).astype(np.uint8)
    to_face = np.array(((step, 0, step / 2 - _SPAN), (0, step, step / 2 - _SPAN), (0, 0, 1)))
    # pixel centres lie at half integers in `affine`, at integers for OpenCV
    matrix = look.affine @ to_face - ((0, 0, 0.5),)
    whole = cv2.warpAffine(frame, matrix, (look.size,) * 2, borderMode=cv2.BORDER_REFLECT)
    return cv2.cvtColor(whole, cv2.COLOR_RGBA2RGB), whole[..., 3].astype(np.float32) / 255


def _background(rng: np.random.Generator, n: int) -> Array:
    """Return two colours out of focus, (n, n, 3) float32."""
    cells = int(rng.integers(1, 7))
    first, second = rng.uniform(0, 250, (2, 1)) + rng.normal(0, 25, (2, 3))
    mix = edge(noise(rng, (n, n), (cells, cells)), 3)
    return lay(np.full((n, n, 3), first, np.float32), second, mix)


def _neck_and_clothes(
    rng: np.random.Generator, look: Look, frame: Array, x: Array, y: Array
) -> Array:
    aside = np.abs(x) / (look.width * rng.uniform(0.62, 0.8))
    neck = edge(1 - aside, 0.05) * (y > 0.1)
    frame = lay(frame, look.skin * (0.7 - 0.3 * aside**2)[..., None], neck)
    collar = rng.uniform(0.4, 0.5) + 0.4 * np.maximum(np.abs(x) - 0.12, 0)
    return lay(frame, rng.uniform(0, 230) + rng.normal(0, 30, 3), edge(y - collar, 0.01))


def _hills(look: Look, x: Array, y: Array, table: tuple[tuple[float, ...], ...]) -> Array:
    """Add up the hills of a table such as `_RELIEF`."""
    total = np.zeros((y.size, x.size))
    for across, depth, down, width, height, rise in table:
        for side in (-1, 1) if across else (1,):
            middle = look.turned(side * across, depth)
            total += rise * hill(x - middle, width) * hill(y - down, height)
    return total


def _skin(rng: np.random.Generator, look: Look, x: Array, y: Array) -> Array:
    """Return bare skin everywhere, (n, n, 3) float32: a relief, lit from one side."""
    n, x, y = y.size, x[:, ::3], y[::3]  # smooth enough for a third of the resolution
    oval = 1 - ((x - look.turned(0, 0)) / (1.12 * look.width)) ** 2 - ((y - 0.02) / 0.52) ** 2
    z = 0.25 * np.sqrt(np.clip(oval, 0.02, 1)) + _hills(look, x, y, _RELIEF)
    z += rng.uniform(0.0002, 0.0006) * noise(rng, z.shape, (60, 60))
    dy, dx = np.gradient(z, 6 * _SPAN / n)
    normal = np.stack((-dx, -dy, np.ones_like(dx)), -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    ambient = rng.uniform(0.35, 0.68)
    light = ambient + (1 - ambient) * np.clip(normal @ look.light, 0, 1) / look.light[2]
    light = np.clip(light * (1 - _hills(look, x, y, _SHADOWS)), 0.12, 1.3)[..., None]
    half = look.light + (0, 0, 1)
    gloss = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 14 * rng.uniform(2, 30)
    colour = look.skin * light ** (0.82, 1.04, 1.12) + gloss[..., None]  # shadows are redder
    red = rng.uniform(0.2, 1.3) * _hills(look, x, y, _BLUSH) + 0.2 * noise(rng, z.shape, (12, 12))
    colour = (colour * (1 + red[..., None] * (0.03, -0.045, -0.035))).astype(np.float32)
    return np.asarray(cv2.resize(colour, (n, n), interpolation=cv2.INTER_CUBIC))


def _mouth(rng: np.random.Generator, look: Look, skin: Array, x: Array, y: Array) -> Array:
    """Draw the lips and the dark line, or gap, between them."""
    soft = 6 * _SPAN / y.size
    smile, gap = rng.uniform(-0.004, 0.02), max(0.0, rng.normal(0, 0.01))
    t = (x - look.turned(0, 0.27)) / (rng.uniform(0.07, 0.085) + smile)  # -1 to 1 between corners
    arch, inside = np.clip(1 - t**2, 0, 1), np.abs(t) < 1
    below = y - 0.236 + 1.2 * smile * t**2  # the line between the lips
    upper = (gap + rng.uniform(0.014, 0.024) * (1 - 0.25 * hill(t, 0.14))) * arch
    lower = (gap + rng.uniform(0.018, 0.032)) * arch
    lips = edge(upper + below, soft) * edge(lower - below, soft) * inside
    red = (0.86, 0.6, 0.6) * (1 - rng.beta(1, 3) * np.array((0.1, 0.4, 0.3)))
    dark = edge(gap * arch + 0.002 - np.abs(below), soft) * inside
    return lay(lay(skin, skin * red, lips), look.skin * (0.3, 0.16, 0.16), 0.85 * dark)


def _hair(
    rng: np.random.Generator, look: Look, x: Array, y: Array, head: Array
) -> tuple[Array, Array, Array]:
    """Return the coverage of all hair, of that in front of the face, and its colour."""
    n, short = y.size, rng.random() < 0.35
    # strands run around the face, or away from it if they are short; more cells make curls
    curls = int(rng.choice((2, 4, 40), p=(0.4, 0.4, 0.2)))
    half = noise(rng, (n // 2, n), (100, curls) if short else (curls, 120))
    polar = cv2.blur(np.vstack((half, half[::-1])), (3, 3))
    tone = cv2.warpPolar(polar, (n, n), (n / 2, n / 2), 0.75 * n, cv2.WARP_INVERSE_MAP)
    colour = look.hair * np.clip(1 + 0.25 * tone + 1.5 * look.light[0] * x, 0.3, 2)[..., None]
    volume = rng.uniform(-0.01, 0.03) if short else rng.uniform(0.02, 0.1)
    end = rng.uniform(0, 0.06) if short else rng.uniform(0.1, 0.9)
    up = np.clip((y + 0.02) / -(0.4 + volume), 0, 1)
    wide = (look.width + volume) * np.sqrt(1 - up**2.4) + rng.uniform(0, 0.3) * np.clip(y, 0, 0.4)
    hair = edge(wide - np.abs(x) + 0.01 * tone, 0.01) * edge(end - y + 0.03 * tone, 0.04) * (up < 1)
    # the hairline turns with the head, leans to one side, and falls beside the face
    start = rng.uniform(-0.34, -0.2) if rng.random() < 0.85 else rng.uniform(-0.16, -0.08)
    aside = (x - 0.12 * np.sin(look.yaw)) / look.width
    fall = rng.uniform(0.3, 0.9) * np.abs(aside) ** rng.uniform(4, 9)
    line = start + fall + rng.normal(0, 0.15) * x + 0.008 * tone
    front = edge(line - y, 0.014) * np.maximum(hair, head * (y < -0.1))
    if look.covered:
        eye = look.turned(look.covered * EYE_X, EYE_DEPTH) - look.turned(0, 0)
        across = np.abs(x - eye - look.covered * (0.03 - 0.5 * (y - 0.05) ** 2))
        lock = edge(0.09 + 0.01 * tone - across, 0.012) * edge(0.42 - y, 0.1) * (y > -0.36)
        front = np.maximum(front, lock)
    return hair, front, colour

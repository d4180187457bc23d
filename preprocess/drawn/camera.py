"""What lies between a face and its file: glasses, and the camera."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.drawn.look import EYE_DEPTH, Look
from preprocess.drawn.paint import Array, lay

_LENS_X = 0.128  # middle of the lens on the viewer's right


def paint_glasses(rng: np.random.Generator, look: Look, image: Array, cover: Array) -> Array:
    """Paint glasses into `image`; return `shown` of lenses and frame."""
    n = look.size
    half, tall, power = rng.uniform((0.085, 0.055, 0.55), (0.105, 0.085, 1.0))
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)  # a superellipse: round if power is 1, else squarer
    ring_x, ring_y = half * np.sign(c) * np.abs(c) ** power, tall * np.sign(s) * np.abs(s) ** power
    gap, far = _LENS_X - half, _LENS_X + half
    bars = [_pixels(look, (-gap, 0, gap), (0, -0.012, 0))]
    lenses = []
    for side in (-1, 1):
        lenses.append(_pixels(look, side * (_LENS_X + ring_x), 0.012 + ring_y))
        bars.append(_pixels(look, (side * far, side * (look.width + 0.02)), (-0.01, -0.02)))
    glass, rim = np.zeros((n, n), np.uint8), np.zeros((n, n), np.uint8)
    cv2.fillPoly(glass, lenses, 255, cv2.LINE_AA, 4)
    thick = max(1, round(rng.choice((0.004, 0.007, 0.013)) * n))
    cv2.polylines(rim, lenses, True, 255, thick, cv2.LINE_AA, 4)
    cv2.polylines(rim, bars, False, 255, thick, cv2.LINE_AA, 4)
    both = np.maximum(glass, rim)
    x, y, w, h = cv2.boundingRect(both)
    box = np.s_[y : y + h, x : x + w]
    inside, frame = (mask[box] / np.float32(255) * (1 - cover[box]) for mask in (glass, rim))
    down, across = np.linspace(0, 1, h)[:, None], np.linspace(0, 1, w)
    stripes = np.sin(across * rng.uniform(8, 20) + down * rng.uniform(-6, 6))
    patch = image[box].astype(np.float32)
    if look.glasses == "sun":
        patch = lay(patch, rng.uniform(5, 45, 3) * (0.7 + 1.2 * down[..., None]), inside)
    glare = np.clip(stripes - rng.uniform(0.3, 0.95), 0, 1) * rng.uniform(0, 0.7)
    patch = lay(patch, np.array((236, 240, 246)), glare * inside)
    ink = rng.uniform(8, 60, 3) if rng.random() < 0.7 else rng.uniform(90, 180, 3)
    image[box] = lay(patch, ink * (0.8 + 0.4 * stripes[..., None] ** 2), frame)
    return np.asarray(both / np.float32(255) * (1 - cover))


def _pixels(look: Look, x: Array | tuple[float, ...], y: Array | tuple[float, ...]) -> Array:
    """Return points of the glasses as pixels, (points, 2) int32 in sixteenths."""
    seen = [look.turned(value, EYE_DEPTH + 0.015) for value in x]
    return (np.stack((seen, y, np.ones(len(x))), -1) @ look.affine.T * 16).astype(np.int32)


def photograph(rng: np.random.Generator, image: Array) -> npt.NDArray[np.uint8]:
    """Return `image` as a camera takes it: exposure, colour cast, blur and grain."""
    n = len(image)
    if rng.random() < 0.5:  # light from one side, and darker corners
        y, x = np.mgrid[-1:1:16j, -1:1:16j]
        a, b = rng.normal(0, 0.12, 2)
        gain = (1 + a * x + b * y) * (1 - rng.uniform(0, 0.12) * (x * x + y * y))
        gain = cv2.resize(np.clip(gain * 160, 0, 255).astype(np.uint8), (n, n))
        image = cv2.multiply(image, cv2.merge([gain] * 3), scale=1 / 160)
    tone = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(-0.05, 0.18))
    cast = np.exp(rng.normal(0, 0.035, 3) + rng.normal(-0.03, 0.1))
    curve = ((tone - 0.45) * rng.uniform(0.88, 1.22) + 0.45) * cast
    image = cv2.LUT(image, np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.06:  # black and white
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    blur = rng.normal(0, 1) * n / 1024
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    grain = cv2.blur(np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape), (3, 3))
    amount = 0.04 + 0.3 * rng.random() ** 2
    return np.asarray(cv2.addWeighted(image, 1, grain, amount, -127.5 * amount), np.uint8)

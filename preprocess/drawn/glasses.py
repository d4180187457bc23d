"""Draw glasses at full resolution into the picture of a face."""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.drawn.look import EYE_DEPTH, Array, Look, lay


def _lens(side: int, shape: tuple[float, float, float], look: Look) -> Array:
    """Outline of a lens in pixels, (48, 2)."""
    half, tall, power = shape
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    x = half * np.sign(c) * np.abs(c) ** power
    y = 0.012 + tall * np.sign(s) * np.abs(s) ** power * (1 + 0.12 * c * side)
    turned = [look.turned(side * 0.128 + v, EYE_DEPTH + 0.015) for v in x]
    return np.stack([turned, y, np.ones_like(y)], -1) @ look.affine.T


def draw_glasses(rng: np.random.Generator, look: Look, image: Array, cover: Array) -> Array:
    """Paint glasses, in place; return the coverage of frame and lenses, (size, size)."""
    n, fix = look.size, 16
    shape = (rng.uniform(0.085, 0.105), rng.uniform(0.055, 0.085), rng.uniform(0.55, 1.0))
    rings = [(_lens(side, shape, look) * fix).astype(np.int32) for side in (-1, 1)]
    lens, rim = np.zeros((n, n), np.uint8), np.zeros((n, n), np.uint8)
    cv2.fillPoly(lens, rings, 255, cv2.LINE_AA, 4)
    thick = max(1, round(rng.choice([0.004, 0.007, 0.013]) * n))
    cv2.polylines(rim, rings, True, 255, thick, cv2.LINE_AA, 4)
    gap = 0.128 - shape[0]
    bridge = np.array([[-gap, 0.0], [0, -0.012], [gap, 0.0]])
    arms = [
        np.array([[s * (0.128 + shape[0]), -0.01], [s * (look.width + 0.02), -0.02]])
        for s in (-1, 1)
    ]
    for path in (bridge, *arms):
        points = np.array([(look.turned(x, EYE_DEPTH), y, 1) for x, y in path]) @ look.affine.T
        cv2.polylines(rim, [(points * fix).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
    both = cv2.max(lens, rim)
    x0, y0, w, h = cv2.boundingRect(both)
    pad = n // 40  # room for the shadow
    box = (slice(max(0, y0 - pad), y0 + h + pad), slice(max(0, x0 - pad), x0 + w + pad))
    h, w = both[box].shape
    patch, shown = image[box].astype(np.float32), 1 - cover[box]
    inside, frame = (m[box].astype(np.float32) / 255 * shown for m in (lens, rim))
    yy = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    xx = np.linspace(0, 1, w, dtype=np.float32)[None]
    stripe = np.sin((xx * rng.uniform(8, 20) + yy * rng.uniform(-6, 6)) + rng.uniform(0, 6))
    glare = np.clip(stripe - rng.uniform(0.3, 0.95), 0, 1) * rng.uniform(0, 0.7)
    shadow = cv2.blur(np.roll(frame, max(1, n // 100), 0), (max(3, n // 80) | 1,) * 2)
    patch = patch * (1 - 0.3 * shadow)[..., None]
    if look.glasses == "sun":
        dark = rng.uniform(5, 45, 3) * np.ones(3)
        patch = lay(patch, dark * (0.7 + 1.2 * yy[..., None]), inside)
    patch = lay(patch, np.array([236, 240, 246]), glare * inside)
    ink = rng.uniform(8, 60, 3) if rng.random() < 0.7 else rng.uniform(90, 200, 3)
    patch = lay(patch, ink * (0.8 + 0.4 * stripe[..., None] ** 2), frame)
    image[box] = np.clip(patch, 0, 255).astype(np.uint8)
    whole = np.zeros((n, n), np.float32)
    whole[box] = np.maximum(inside, frame)
    return whole

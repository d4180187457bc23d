"""What surrounds a procedural face: the background, the exposure and the sensor's noise."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.drawn.look import Array, fractal_noise, noise_tiles


def draw_background(rng: np.random.Generator, n: int) -> Array:
    """Return what is behind the head, out of focus, (n, n, 3) uint8 RGB."""
    grey = rng.uniform(5, 250) if rng.random() < 0.65 else rng.uniform(0, 60)
    vivid = 0.15 + 0.6 * rng.beta(1, 2.5)
    pair = grey + rng.normal(0, 45, (2, 1)) + rng.normal(0, 90, (2, 3)) * vivid
    first, second = np.clip(pair, 0, 255)
    small = 24
    ramp = np.clip(fractal_noise(rng, small, small, 0.5) * 0.3 + 0.5, 0, 1)[..., None]
    blob = first * ramp + second * (1 - ramp)
    blob = np.clip(blob, 0, 255).astype(np.uint8)
    image = cv2.resize(blob, (n, n), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 7))):  # things in the distance
        x0, y0 = rng.integers(0, n, 2)
        w, h = rng.integers(n // 16, n // 3, 2)
        shift = rng.normal(0, 50, 1) + rng.normal(0, 30, 3)
        colour = [int(v) for v in np.clip(first + shift, 0, 255)]
        cv2.ellipse(image, (int(x0), int(y0)), (int(w), int(h)), float(rng.uniform(0, 180)), 0, 360,
                    colour, -1, cv2.LINE_AA)  # fmt: skip
    return np.asarray(cv2.blur(cv2.blur(image, (n // 24, n // 24)), (n // 40, n // 40)))


@lru_cache(maxsize=1)
def _grain_tile() -> Array:
    """Return the grain of skin and sensor, (1280, 1280, 3) uint8 about 128."""
    rng = np.random.default_rng(712)
    grey = rng.standard_normal((1280, 1280), np.float32)
    soft = cv2.GaussianBlur(grey, (0, 0), 1.2)
    rough = np.tile(noise_tiles()[0], (2, 2))[:1280, :1280]
    grey = 6 * grey + 9 * soft / soft.std() + 4 * rough
    colour = cv2.GaussianBlur(rng.standard_normal((1280, 1280, 3), np.float32), (0, 0), 1.0)
    grain = grey[..., None] + 4 * colour / colour.std() + 128
    return np.asarray(np.clip(grain, 0, 255), np.uint8)


def photograph(rng: np.random.Generator, image: Array) -> npt.NDArray[np.uint8]:
    """Expose, tint, blur and add noise to the picture."""
    n = len(image)
    if rng.random() < 0.5:  # uneven light or vignetting
        y, x = np.mgrid[-1:1:16j, -1:1:16j].astype(np.float32)
        slope = rng.normal(0, 0.12, 2)
        gain = (1 + slope[0] * x + slope[1] * y) * (1 - rng.uniform(0, 0.25) * (x * x + y * y) / 2)
        level = cv2.resize(np.clip(gain * 160, 0, 255).astype(np.uint8), (n, n))
        image = np.asarray(cv2.multiply(image, cv2.merge([level] * 3), scale=1 / 160))
    tone = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    contrast, gamma = rng.uniform(0.88, 1.22), np.exp(rng.normal(-0.05, 0.18))
    balance = np.exp(rng.normal(0, 0.035, 3) + rng.normal(-0.03, 0.1))
    curve = ((tone**gamma - 0.45) * contrast + 0.45) * balance
    image = cv2.LUT(image, np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.06:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    blur = max(0.0, rng.normal(0, 1.0)) * n / 1024
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    return _add_grain(rng, image)


def _add_grain(rng: np.random.Generator, image: Array) -> npt.NDArray[np.uint8]:
    """Add the noise of skin and sensor; the tile repeats only in pictures larger than itself."""
    n, tile = len(image), _grain_tile()
    x, y = rng.integers(0, 256, 2)
    grain = tile[y : y + n, x : x + n]
    if grain.shape != image.shape:
        repeat = -(-n // 1024)
        grain = np.tile(tile[:1024, :1024], (repeat, repeat, 1))[:n, :n]
    amount = 0.08 + 0.4 * float(rng.random()) ** 2
    grainy = cv2.addWeighted(image, 1, np.ascontiguousarray(grain), amount, -128 * amount)
    return np.asarray(grainy, np.uint8)

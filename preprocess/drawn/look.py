"""Choose what a procedural face looks like, and the noise and blending it is drawn with.

Lengths are fractions of the nominal picture width, measured from the point midway between the
eyes, x towards the viewer's right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SPAN = 0.7  # the frame reaches this far from the mid-eye point
EYE_X, EYE_DEPTH = 0.121, 0.23
_TONES = np.array(  # skin from very pale to very dark, RGB
    [(246, 224, 210), (236, 203, 182), (226, 184, 156), (204, 156, 122), (172, 122, 90),
     (140, 96, 71), (108, 73, 56), (82, 56, 46)], np.float32)  # fmt: skip
_HAIRS = np.array(
    [(22, 18, 18), (34, 26, 22), (58, 38, 28), (88, 58, 38), (122, 84, 52), (168, 126, 78),
     (206, 172, 118), (126, 56, 30), (150, 146, 142), (214, 210, 204)], np.float32)  # fmt: skip
_IRISES = np.array(
    [(46, 28, 18), (62, 38, 22), (88, 54, 28), (112, 82, 44), (104, 108, 64), (92, 120, 92),
     (104, 136, 156), (86, 122, 168), (132, 148, 158)], np.float32)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What one person and one exposure look like; see `draw_look` for the distributions."""

    skin: Array
    hair: Array
    iris: Array
    light: Array
    affine: Array  # (2, 3) float64, face coordinates to pixels of the picture
    size: int
    yaw: float
    width: float  # half width of the head
    style: str
    openness: tuple[float, float]  # of the viewer's left and right eye, 0 closed
    hidden: str  # "none", "hair" or "hand"
    hidden_side: int
    glasses: str  # "none", "clear" or "sun"
    age: float
    makeup: float
    beard: float

    def turned(self, x: float, depth: float) -> float:
        """Where x lies after the head's turn, the mid-eye point staying in place."""
        return float(x * np.cos(self.yaw) + (depth - EYE_DEPTH) * np.sin(self.yaw))


@lru_cache(maxsize=1)
def noise_tiles() -> tuple[Array, Array]:
    """Return the fixed noise: 1/f noise, (1024, 1024), and hair strands, (256, 1024), std 1."""
    rng = np.random.default_rng(711)
    f = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    f[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((512, 512))) / f
    fractal = np.fft.irfft2(spectrum)
    strand = np.zeros((256, 1024))
    for across, along, weight in ((1, 4, 0.7), (4, 8, 0.8), (16, 16, 0.9), (64, 32, 0.9)):
        octave = rng.standard_normal((256 // along, 1024 // across)).astype(np.float32)
        octave = np.pad(octave, 2, mode="wrap")
        big = cv2.resize(octave, None, fx=across, fy=along, interpolation=cv2.INTER_CUBIC)
        strand += weight * big[2 * along : -2 * along, 2 * across : -2 * across]
    tiled = np.tile(fractal / fractal.std(), (2, 2)).astype(np.float32)
    return tiled, (strand / strand.std()).astype(np.float32)


def fractal_noise(rng: np.random.Generator, height: int, width: int, zoom: float) -> Array:
    """Return (height, width) float32 1/f noise of about unit std; larger zoom, larger blobs."""
    h, w = (int(np.clip(n / zoom, 2, 512)) for n in (height, width))
    y, x = rng.integers(0, 512, 2)
    crop = noise_tiles()[0][y : y + h, x : x + w]
    return np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC))


@lru_cache(maxsize=4)
def frame_grid(pixels: int) -> tuple[Array, Array, Array, Array]:
    """Return x (1, n), y (n, 1), radius (n, n), angle (n, n) from the top of the frame."""
    axis = ((np.arange(pixels) + 0.5) / pixels * 2 - 1).astype(np.float32) * np.float32(SPAN)
    x, y = np.meshgrid(axis, axis + np.float32(0.06))
    return axis[None], axis[:, None], np.hypot(x, y * 0.85), np.arctan2(x, -y)


def blend(base: Array, colour: Array, alpha: Array) -> Array:
    """Lay colour, an image or one RGB, over the uint8 base in place, and return it."""
    weight = np.asarray(alpha, np.float32)
    x, y, w, h = cv2.boundingRect((weight * 255).astype(np.uint8))
    if w and h:
        box = (slice(y, y + h), slice(x, x + w))
        weight = np.ascontiguousarray(weight[box])
        if colour.ndim == 1:
            colour = np.full((h, w, 3), np.clip(colour, 0, 255), np.uint8)
        else:
            colour = np.ascontiguousarray(colour[box])
        under = np.ascontiguousarray(base[box])
        base[box] = cv2.blendLinear(under, colour, 1 - weight, weight)
    return base


def tinted(colour: Array, light: Array) -> Array:
    """Return the uint8 RGB colour times light (h, w) of 0 to 2, as an image."""
    lut = np.clip(np.linspace(0, 2, 256)[:, None] * colour, 0, 255).astype(np.uint8)[None]
    level = np.clip(light * 127.5, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(cv2.merge([level] * 3), lut))


def lay(base: Array, colour: Array, alpha: Array) -> Array:
    """Lay colour over the float base, both (h, w, 3) or broadcast to it; alpha is (h, w)."""
    mixed = np.asarray(colour, np.float32) - base
    mixed *= alpha[..., None]
    mixed += base
    return mixed


def profile(inside: Array, x: Array, softness: float) -> Array:
    """Coverage of |x| < inside (a column), its slope taken into account."""
    slope = np.gradient(inside[:, 0]) / (2 * SPAN / len(inside))
    gain = 1 / (softness * np.sqrt(1 + slope[:, None] ** 2))
    cover = np.clip((inside - np.abs(x)) * gain + 0.5, 0, 1) * (inside > 0)
    return np.asarray(cover, np.float32)


def bump(x: Array, y: Array, cx: float, cy: float, sx: float, sy: float) -> Array:
    """Return a Gaussian hill of height 1 at (cx, cy)."""
    across = np.exp(-(((x - cx) / sx) ** 2)) * np.exp(-(((y - cy) / sy) ** 2))
    return np.asarray(across, np.float32)


def draw_look(rng: np.random.Generator, size: int) -> Look:
    """Choose one person, pose and light."""
    tone = rng.uniform(0, len(_TONES) - 1.01)
    k, part = int(tone), tone % 1
    skin = _TONES[k] * (1 - part) + _TONES[k + 1] * part + rng.normal(0, 4, 3)
    dark = tone > 3.8 and rng.random() < 0.85
    hair = _HAIRS[rng.integers(0, 3 if dark else len(_HAIRS))] * rng.uniform(0.8, 1.15)
    iris = _IRISES[rng.integers(0, 3 if dark else len(_IRISES))] * rng.uniform(0.8, 1.2)
    roll = np.radians(np.clip(rng.normal(0, 8), -25, 25))
    scale = size * np.clip(rng.normal(1, 0.06), 0.8, 1.2)
    x, y = size * (0.5 + rng.normal(0, 0.015)), size * (0.472 + rng.normal(0, 0.014))
    c, s = scale * np.cos(roll), scale * np.sin(roll)
    opened = float(np.clip(rng.normal(0.9, 0.18), 0.16, 1.2))
    state = rng.random()  # 0.02 closed, 0.02 sunglasses, 0.05 one eye hidden
    openness = (opened * rng.uniform(0.9, 1.05), opened * rng.uniform(0.9, 1.05))
    hidden, glasses = "none", "clear" if rng.random() < 0.16 else "none"
    side = int(rng.choice([-1, 1]))
    if state < 0.02:
        openness = (0.0, 0.0)
    elif state < 0.04:
        glasses = "sun"
    elif state < 0.09:
        hidden = str(rng.choice(["hair", "hand", "wink"], p=[0.5, 0.3, 0.2]))
        if hidden == "wink":
            openness = (0.0, opened) if side < 0 else (opened, 0.0)
    styles = ["long", "bob", "short", "buzz", "bald", "afro", "fringe", "curly"]
    style = str(rng.choice(styles, p=[0.27, 0.12, 0.22, 0.07, 0.05, 0.06, 0.12, 0.09]))
    manly = style in ("short", "buzz", "bald") and rng.random() < 0.75
    light = np.array([rng.normal(0, 0.42), rng.uniform(-0.8, 0.05), 1.0])
    return Look(
        skin=np.clip(skin * 0.95, 20, 240).astype(np.float32),
        hair=np.clip(hair, 8, 245).astype(np.float32),
        iris=np.clip(iris, 10, 230).astype(np.float32),
        light=light / np.linalg.norm(light), affine=np.array([[c, -s, x], [s, c, y]]), size=size,
        yaw=float(np.clip(rng.normal(0, 0.2), -0.5, 0.5)), width=float(rng.uniform(0.238, 0.275)),
        style=style, openness=openness, hidden=hidden, hidden_side=side, glasses=glasses,
        age=float(rng.beta(1.3, 2)), makeup=0.0 if manly else float(rng.beta(1, 1.3)),
        beard=float(rng.uniform(0.3, 1)) if manly and rng.random() < 0.6 else 0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Lids:
    """Shape shared by the two eyes of a person."""

    half: float  # half width of the aperture, of the picture's width
    tilt: float
    gap: float
    low: float
    apex: float
    power: float
    crease: float
    gaze: tuple[float, float]
    iris: float
    pupil: float
    lash: float
    brow: tuple[float, float, float, float]  # height, thickness, arch, density


def draw_lids(rng: np.random.Generator, look: Look) -> Lids:
    """Choose the shape and gaze of a person's eyes."""
    # most look at the camera or near it
    spread = 0.1 if rng.random() < 0.6 else 0.3
    manly = look.makeup == 0
    return Lids(
        half=float(np.clip(rng.normal(0.0515, 0.0048), 0.038, 0.066)), tilt=rng.normal(0.08, 0.06),
        gap=float(np.clip(rng.normal(0.86, 0.1), 0.6, 1.1)), low=float(rng.uniform(0.2, 0.36)),
        apex=float(rng.uniform(-0.25, 0.15)), power=float(rng.uniform(0.8, 1.25)),
        crease=float(rng.choice([rng.uniform(0.1, 0.45), 0.05], p=[0.85, 0.15])),
        gaze=(float(np.clip(rng.normal(0, spread), -0.45, 0.45)),
              float(np.clip(rng.normal(0, spread / 2.5), -0.2, 0.2))),
        iris=float(rng.uniform(0.4, 0.48)), pupil=float(rng.uniform(0.28, 0.55)),
        lash=float(rng.uniform(0.1, 0.35) if manly else 0.3 + 0.7 * look.makeup),
        brow=(float(rng.uniform(0.05, 0.08)), float(rng.uniform(0.009, 0.015)),
              float(rng.uniform(0.0, 0.018)), float(rng.uniform(0.45, 1.0))),
    )  # fmt: skip

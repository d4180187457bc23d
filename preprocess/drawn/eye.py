"""Paint eyes and brows into the picture, at full resolution.

Each eye has its own axes: u runs from the inner corner (-1) to the outer one (1), v runs down, and
the unit is half the width of the opening. Lids are curves v(u), so how much of a pixel lies between
them is known exactly, and the mask is the very shape that was painted.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.drawn.look import EYE_DEPTH, EYE_X, Look
from preprocess.drawn.paint import Array, edge, hill, lay, noise

_STEP = 1 / 400
_AXIS = np.arange(-2.5, 2.5, _STEP)  # the values of u at which a curve is known
_CORNERS = np.array(((-1.8, 2.0, 2.0, -1.8), (-2.9, -2.9, 1.1, 1.1), (1, 1, 1, 1)))  # of the patch


class _Eye:
    """One eye: its shape, and the (u, v) of every pixel of the patch around it."""

    def __init__(self, rng: np.random.Generator, look: Look, side: int) -> None:
        self.look, self.side, self.open = look, side, float(look.openness[int(side > 0)])
        self.makeup = max(0.0, rng.uniform(-0.5, 1))
        self.lashes = 0.3 + 0.7 * self.makeup if self.makeup else rng.uniform(0.1, 0.35)
        self.iris, self.pupil = rng.uniform(0.4, 0.48), rng.uniform(0.12, 0.25)  # radii
        away = 0.1 if rng.random() < 0.6 else 0.3  # most people look at the camera or near it
        self.gaze = np.clip(rng.normal(0, (away, 0.4 * away)), -0.4, 0.4).tolist()
        self._bend_lids(rng)
        half, tilt = np.clip(rng.normal(0.0515, 0.0048), 0.038, 0.066), rng.normal(0.08, 0.06)
        # the eye that turns away from the camera looks narrower
        across = side * half * (np.cos(look.yaw) - 0.6 * side * np.sin(look.yaw))
        x = look.turned(side * EYE_X, EYE_DEPTH)
        to_face = np.array(((across, 0, x), (-half * tilt, half, 0), (0, 0, 1)))
        self.to_picture = look.affine @ to_face
        axes, middle = self.to_picture[:, :2], self.to_picture[:, 2]
        self.pixel = float(abs(np.linalg.det(axes)) ** -0.5)  # side of a pixel, in half widths
        corners = np.clip(self.to_picture @ _CORNERS, 0, look.size).astype(int)
        self.origin = x0, y0 = corners.min(1)
        x1, y1 = corners.max(1)
        self.box = np.s_[y0:y1, x0:x1]
        points = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), -1) + 0.5 - middle
        self.u, self.v = np.moveaxis((points @ np.linalg.inv(axes).T).astype(np.float32), -1, 0)

    def _bend_lids(self, rng: np.random.Generator) -> None:
        """Choose the curves of both lids and of the fold above them."""

        def arch(apex: float, power: float) -> Array:
            away = (_AXIS - apex) / (1 + apex * np.where(apex > _AXIS, 1, -1))
            return np.asarray(np.clip(1 - away**2, 0, 1) ** power)

        self.height, self.depth = rng.uniform(0.7, 1.02), rng.uniform(0.2, 0.36)
        apex = rng.uniform(-0.25, 0.15)
        self.lower = 0.07 * hill(_AXIS + 1, 0.22) + self.depth * arch(0.2, 0.9)
        self.upper = self.lower - self.height * self.open * arch(apex, 0.8)
        # the fold stays where it is if the lid falls, and reaches past both corners
        lift = 0.92 * self.height * max(self.open, 0.55) + rng.uniform(0, 0.4)
        wide = np.exp(-(np.abs((_AXIS - apex / 2) / 1.05) ** 2.6))
        self.fold = 0.1 + 0.5 * self.lower - lift * wide + 0.04 * _AXIS

    def at(self, curve: Array) -> Array:
        """Return the curve's value at the u of every pixel."""
        index = ((self.u - _AXIS[0]) / _STEP).astype(np.int32)
        return np.asarray(np.take(curve.astype(np.float32), index, mode="clip"))

    def below(self, curve: Array) -> Array:
        """Return how far every pixel lies below the curve."""
        return np.asarray(self.v - self.at(curve))

    def opening(self) -> Array:
        """Return how much of every pixel lies between the lids, 0 to 1."""
        cover = (np.abs(self.u) < 1).astype(np.float32)
        for curve, sign in ((self.upper, 1), (self.lower, -1)):
            slope = self.at(np.hypot(1, np.gradient(curve, _STEP)))
            cover *= edge(sign * self.below(curve) / slope, self.pixel)
        return np.asarray(cover)

    def strokes(self, u: Array, v: Array, width: float) -> Array:
        """Return the coverage of lines through the points (u, v), each (points, lines)."""
        mask = np.zeros(self.u.shape, np.uint8)
        points = np.stack((u.T, v.T), -1) @ self.to_picture[:, :2].T + self.to_picture[:, 2]
        lines = list(((points - self.origin - 0.5) * 16).astype(np.int32))
        wide = width / self.pixel  # what is finer than a pixel is drawn paler instead
        cv2.polylines(mask, lines, False, 255, max(1, round(wide)), cv2.LINE_AA, 4)
        return np.asarray(mask * np.float32(min(1, wide) / 255))


def paint_eyes(rng: np.random.Generator, look: Look, image: Array, cover: Array) -> list[Array]:
    """Paint eyes and brows into `image`; return `shown` of the viewer's left and right eye."""
    seed, whole = rng.integers(1 << 31), []
    for side in (-1, 1):
        same = np.random.default_rng(seed)  # the two eyes of a person are alike
        eye = _Eye(same, look, side)
        before, shown = image[eye.box].astype(np.float32), 1 - cover[eye.box]
        lit = np.clip(before.mean((0, 1)) / look.skin, 0.25, 1.15)  # the light that falls here
        opening = eye.opening()
        patch = _paint_lids(same, eye, before)
        patch = _paint_ball(same, eye, patch, opening, lit)
        patch = _paint_lashes(same, eye, patch)
        patch = _paint_brow(same, eye, patch, lit)
        image[eye.box] = np.clip(lay(before, patch, shown), 0, 255)
        whole.append(np.zeros_like(cover))
        whole[-1][eye.box] = opening * shown
    return whole


def _paint_lids(rng: np.random.Generator, eye: _Eye, patch: Array) -> Array:
    """Shade the skin about the eye: make-up, folds and the wet rim of the lower lid."""
    skin = eye.look.skin
    up, low, fold = (eye.below(curve) for curve in (eye.upper, eye.lower, eye.fold))
    near = np.clip((1.35 - np.abs(eye.u - 0.05)) / 0.4, 0, 1)
    shadow = hill(np.maximum(0.8 * up, -up), 0.42) * near * (fold > -0.15)
    paint = skin * rng.uniform(0.15, 0.6) * rng.uniform(0.5, 1.1, 3)
    patch = lay(patch, paint, 0.75 * eye.makeup**1.5 * shadow)
    dark = 0.34 * hill(fold, 0.06) + 0.2 * hill(fold + 0.12, 0.2)
    dark += rng.uniform(0.1, 0.25) * hill(low - 0.2, 0.1) + 0.12 * hill(low - 0.08, 0.06)
    redder = (1 - skin / 255 * (0.84, 0.62, 0.56)).astype(np.float32)
    patch = patch * (1 - (dark * near).astype(np.float32)[..., None] * redder)
    rim = hill(low - 0.02, 0.045) * (np.abs(eye.u) < 1)
    wet = np.array((0.98, 0.76, 0.72)) * patch.mean(2, keepdims=True) / skin.mean()
    return lay(patch, skin * wet, 0.5 * rim)


def _paint_ball(
    rng: np.random.Generator, eye: _Eye, patch: Array, opening: Array, lit: Array
) -> Array:
    """Paint the eyeball into the opening."""
    inside = opening > 0  # what follows is done for these pixels alone
    u, v, under = eye.u[inside], eye.v[inside], eye.below(eye.upper)[inside]
    aside = np.abs(u)
    red = (0.16 + 0.4 * np.clip(noise(rng, eye.u.shape, (30, 30))[inside] - 0.6, 0, 1)) * aside
    colour = np.array((212, 203, 196)) * (1 - red[:, None] * (0.15, 0.55, 0.5))
    colour = lay(colour, np.zeros(3), 0.32 * aside**3)
    dx = u + 0.04 - eye.side * eye.gaze[0]  # from the middle of the iris
    dy = v + 0.39 * eye.height - eye.depth - eye.gaze[1]
    radius = np.hypot(dx, dy)
    iris = _iris_colour(rng, eye, dx, dy, radius)
    colour = lay(colour, iris, edge(eye.iris - radius, max(2 * eye.pixel, 0.03)))
    colour *= (lit.mean() * 0.85 + 0.1) * rng.uniform(0.88, 1.02)
    tear_duct = 0.85 * hill(u + 0.97, 0.13) * hill(v - 0.06, 0.16)
    colour = lay(colour, eye.look.skin * (0.9, 0.6, 0.58) * lit, tear_duct)
    shadow = 0.62 * np.exp(-((np.maximum(under, 0) / 0.17) ** 1.5))  # of the upper lid
    colour = lay(colour, np.zeros(3), shadow)
    for _ in range(rng.integers(1, 4)):  # reflections lie on the same side of both eyes
        x, y = rng.normal((0.2 * eye.look.light[0], -0.1), 0.09)
        size = rng.uniform(0.03, 0.075)
        glint = edge(size - np.hypot(dx - eye.side * x, dy - y), 2 * eye.pixel)
        colour = lay(colour, np.full(3, 250), glint * rng.uniform(0.5, 1))
    patch[inside] = lay(patch[inside], colour, opening[inside])
    return patch


def _iris_colour(rng: np.random.Generator, eye: _Eye, dx: Array, dy: Array, radius: Array) -> Array:
    """Return the colour of iris and pupil at (dx, dy) from their middle."""
    angle, share = np.arctan2(dy, dx), radius / eye.iris
    rays = np.zeros_like(dx)
    for count, phase in zip((5, 13, 29, 53), rng.uniform(0, 6.28, 4).tolist(), strict=True):
        rays += np.cos(count * angle + phase + 1.5 * np.sin(3 * share + phase))
    # light from one side shines out of the other side of the iris
    glow = np.clip((dy - eye.side * eye.look.light[0] * dx) / eye.iris, -0.5, 1)
    dark_rim = rng.uniform(0.5, 0.85) * np.clip((share - 0.72) / 0.25, 0, 1) ** 1.5
    tone = (1 + 0.07 * rays) * (1 + 0.5 * glow) * (1 - dark_rim)
    ring = rng.uniform(0, 0.3) * hill(radius - eye.pupil, 0.07)
    iris = lay(tone[:, None] * eye.look.iris, np.array((120, 78, 34)), ring)
    return lay(iris, np.array((9, 7, 7)), edge(eye.pupil - radius, 1.7 * eye.pixel))


def _paint_lashes(rng: np.random.Generator, eye: _Eye, patch: Array) -> Array:
    """Draw the dark edges of the lids, and the lashes."""
    ink, strong = np.minimum(eye.look.hair * 0.2, 28), eye.lashes
    span = np.clip((1.06 - np.abs(eye.u - 0.03)) / 0.12, 0, 1)
    line = (0.45 + 0.5 * strong) * hill(eye.below(eye.upper) + 0.01, 0.035 + 0.045 * strong)
    liner = (0.1 + 0.55 * eye.makeup**2) * hill(eye.below(eye.lower) - 0.035, 0.05)
    patch = lay(patch, ink, span * np.maximum(line, liner * np.clip(eye.u + 0.9, 0, 1)))
    t = np.linspace(0, 1, 5)[:, None]  # along a lash
    # the lashes of an open lid point up, those of a lowered one hang
    for curve, longest, rise in ((eye.upper, 0.34, 1.25 * min(eye.open, 1) - 0.5),
                                 (eye.lower, 0.16, -0.9)):  # fmt: skip
        u = rng.uniform(-0.75, 1, int(26 * (0.6 + strong)))
        fan = 0.75 * u + 0.1 + rng.normal(0, 0.14, u.size)
        length = longest * (0.45 + 0.75 * strong) * (0.8 + 0.2 * u) * rng.uniform(0.7, 1.2, u.size)
        out = np.sin(fan) * t + 0.25 * np.sign(u) * t**2
        down = 0.5 * t * (1 - t) - np.cos(fan) * rise * t
        lashes = eye.strokes(u + length * out, np.interp(u, _AXIS, curve) + length * down, 0.022)
        patch = lay(patch, ink, min(0.2 + 2.5 * longest * strong, 0.95) * lashes)
    return patch


def _paint_brow(rng: np.random.Generator, eye: _Eye, patch: Array, lit: Array) -> Array:
    """Draw the brow: a soft body, and hairs on it."""
    colour = np.minimum(eye.look.hair * 0.7, 120) * lit
    height, thick, bend, dense = rng.uniform((1.1, 0.16, 0.0, 0.4), (1.6, 0.3, 0.35, 1.0))
    middle = 0.1 * np.clip(_AXIS - 0.6, 0, 2) ** 1.5 - height - bend * hill(_AXIS - 0.5, 0.8)
    taper = np.interp(_AXIS, (-1.5, -1, 0, 1.75), (0, 1, 1, 0)) ** 0.6 * thick
    body = hill(eye.below(middle) / (eye.at(taper) + 0.03), 0.9) * eye.at(taper / thick)
    patch = lay(patch, colour, 0.75 * dense * body)
    u = rng.uniform(-1.4, 1.6, int(230 * dense))
    v = np.interp(u, _AXIS, middle) + rng.uniform(-0.9, 0.9, u.size) * np.interp(u, _AXIS, taper)
    turn = np.interp(u, (-1.4, -0.8, 0.5, 1.6), (-1.3, -0.6, -0.15, 0.35))
    turn = turn + rng.normal(0, 0.2, u.size)
    along = rng.uniform(0.12, 0.28, u.size) * np.linspace(0, 1, 4)[:, None]
    hairs = eye.strokes(u + along * np.cos(turn), v + along * np.sin(turn), 0.02)
    return lay(patch, colour * 0.75, 0.45 * hairs)

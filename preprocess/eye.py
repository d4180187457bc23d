"""Draw eyes, brows and glasses at full resolution into the picture of a face.

An eye has its own axes: u from the inner corner (-1) to the outer one (1), v down, both in half
widths of the aperture.  Lids are curves v(u), so the aperture's coverage is known to a fraction
of a pixel and the mask is the very shape that was painted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.face import _EYE_DEPTH, _EYE_X, Array, Look, fractal_noise


@dataclass(frozen=True)
class _Lids:
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


def _draw_lids(rng: np.random.Generator, look: Look) -> _Lids:
    # most look at the camera or near it
    spread = 0.1 if rng.random() < 0.6 else 0.3
    manly = look.makeup == 0
    return _Lids(
        half=float(np.clip(rng.normal(0.0475, 0.0045), 0.036, 0.06)), tilt=rng.normal(0.08, 0.06),
        gap=float(np.clip(rng.normal(0.92, 0.12), 0.6, 1.25)), low=float(rng.uniform(0.16, 0.32)),
        apex=float(rng.uniform(-0.25, 0.15)), power=float(rng.uniform(0.8, 1.25)),
        crease=float(rng.choice([rng.uniform(0.1, 0.45), 0.05], p=[0.85, 0.15])),
        gaze=(float(rng.normal(0, spread)), float(np.clip(rng.normal(0, spread / 2.5), -0.2, 0.2))),
        iris=float(rng.uniform(0.4, 0.48)), pupil=float(rng.uniform(0.28, 0.55)),
        lash=float(rng.uniform(0.1, 0.35) if manly else 0.3 + 0.7 * look.makeup),
        brow=(float(rng.uniform(0.05, 0.08)), float(rng.uniform(0.009, 0.015)),
              float(rng.uniform(0.0, 0.018)), float(rng.uniform(0.45, 1.0))),
    )  # fmt: skip


class _Eye:
    """One eye: its patch of the picture and the coordinates of every pixel of it."""

    def __init__(self, look: Look, lids: _Lids, side: int) -> None:
        self.side, self.look, self.lids = side, look, lids
        self.open = look.openness[0 if side < 0 else 1]
        bulge = _EYE_DEPTH + 0.03
        x = look.turned(side * _EYE_X, _EYE_DEPTH)
        slim = np.cos(look.yaw) - side * _EYE_X / bulge * np.sin(look.yaw) * 1.3
        tilt = lids.tilt
        local = np.array([[side * lids.half * slim, side * lids.half * tilt * 0.0, x],
                          [-lids.half * tilt, lids.half, 0.0], [0, 0, 1]])  # fmt: skip
        self.map = look.affine @ local
        self.pixel = 1 / float(np.sqrt(abs(np.linalg.det(self.map[:, :2]))))  # in half widths
        corners = self.map @ np.array([[-2, 2.3, 2.3, -2], [-2.7, -2.7, 1.5, 1.5], [1, 1, 1, 1]])
        low = np.clip(np.floor(corners.min(1)), 0, look.size).astype(int)
        high = np.clip(np.ceil(corners.max(1)), 0, look.size).astype(int)
        self.box = (slice(low[1], high[1]), slice(low[0], high[0]))
        self.origin = low
        inverse = np.linalg.inv(np.vstack([self.map, [0, 0, 1]]))
        px, py = np.arange(low[0], high[0]) + 0.5, (np.arange(low[1], high[1]) + 0.5)[:, None]
        self.u = (inverse[0, 0] * px + inverse[0, 1] * py + inverse[0, 2]).astype(np.float32)
        self.v = (inverse[1, 0] * px + inverse[1, 1] * py + inverse[1, 2]).astype(np.float32)
        self._curves()

    def _curves(self) -> None:
        s, lids = np.linspace(-2.5, 2.5, 2001), self.lids

        def arch(apex: float, power: float) -> Array:
            w = np.where(s < apex, (apex - s) / (apex + 1), (s - apex) / (1 - apex))
            return np.asarray(np.clip(1 - w**2, 0, 1) ** power)

        dip = 0.07 * np.exp(-(((s + 1) / 0.22) ** 2))
        self.low_curve = dip + lids.low * arch(0.2, 0.9) * (0.7 + 0.3 * min(self.open, 1))
        self.up_curve = self.low_curve - lids.gap * self.open * arch(lids.apex, lids.power * 0.8)
        # the fold runs over the lid whatever the lid does, and beyond both corners
        wide = np.exp(-(np.abs((s - lids.apex) / 0.95) ** 3))
        lift = lids.gap * max(self.open, 0.72) * (1 + 0.15 * self.open) + lids.crease
        self.fold_curve = 0.12 + self.low_curve * 0.3 - wide * lift + 0.05 * s
        self.axis = s

    def at(self, curve: Array, u: Array) -> Array:
        """Look the curve up at u."""
        index = np.clip((u + 2.5) * 400, 0, 2000).astype(np.int32)
        return curve.astype(np.float32)[index]

    def below(self, curve: Array) -> Array:
        """Signed distance of every pixel below the curve."""
        slope = np.gradient(curve, 1 / 400)
        return (self.v - self.at(curve, self.u)) * self.at(1 / np.sqrt(1 + slope**2), self.u)

    def strokes(self, paths: list[Array], width: float) -> Array:
        """Coverage of lines given as (k, 2) paths of (u, v), drawn finely whatever the size."""
        fine = 1 if self.pixel < 0.03 else 4
        shape = (self.u.shape[0] * fine, self.u.shape[1] * fine)
        mask = np.zeros(shape, np.uint8)
        for path in paths:
            points = path @ self.map[:, :2].T + self.map[:, 2] - self.origin
            cv2.polylines(mask, [np.int32((points * fine - 0.5) * 16)], False, 255,
                          max(1, round(width / self.pixel * fine)), cv2.LINE_AA, 4)  # fmt: skip
        if fine > 1:
            mask = cv2.resize(mask, self.u.shape[::-1], interpolation=cv2.INTER_AREA)
        return mask.astype(np.float32) / 255


def _lay(base: Array, colour: Array, alpha: Array) -> Array:
    return base + alpha[..., None] * (colour - base)


def _ball(rng: np.random.Generator, eye: _Eye, tint: Array, shade: Array) -> Array:
    """Colour of the eyeball for every pixel of the patch."""
    look, lids, u, v = eye.look, eye.lids, eye.u, eye.v
    red = 0.25 + 0.75 * np.clip(np.abs(u), 0, 1) ** 2
    sclera = np.array([226, 220, 214], np.float32) * tint
    vein = np.clip(fractal_noise(rng, *u.shape, 0.25) - 0.6, 0, 1) * red * 0.5
    flush = (red * 0.16 + vein)[..., None] * np.array([0.15, 0.55, 0.5], np.float32)
    colour = sclera * (1 - flush) * (1 - 0.32 * np.clip(np.abs(u), 0, 1.1) ** 3)[..., None]
    gx, gy = lids.gaze
    cx, cy = -0.04 + eye.side * gx, -0.5 * lids.gap * 0.78 + lids.low + gy + 0.02
    dx, dy = (u - cx) * (1 + 0.25 * gx * gx), v - cy
    r = np.hypot(dx, dy) / lids.iris
    angle = np.arctan2(dy, dx)
    edge = eye.pixel / lids.iris
    phase = rng.uniform(0, 6.28, 6)
    rays = sum(np.cos(k * angle + p + 1.5 * np.sin(3 * r + p)) * a for k, p, a in zip(
        (5, 9, 17, 29, 43, 61), phase, (0.25, 0.3, 0.35, 0.4, 0.4, 0.35), strict=True))  # fmt: skip
    glow = 1 + 0.5 * np.clip((dx * -look.light[0] * eye.side + dy) / lids.iris, -0.5, 1)
    iris = look.iris * (1 + 0.16 * rays * np.clip(r * 2 - 0.5, 0, 1))[..., None] * glow[..., None]
    inner = np.clip(1 - np.abs(r - lids.pupil - 0.1) / 0.22, 0, 1)[..., None] * rng.uniform(0, 0.6)
    iris = iris + inner * (np.array([120, 78, 34]) - iris) * np.float32(0.5)
    ring = np.clip((r - 0.72) / 0.25, 0, 1) ** 1.5 * rng.uniform(0.5, 0.85)
    iris = iris * tint * (1 - ring)[..., None]
    iris = _lay(iris, np.array([9, 7, 7]), np.clip((lids.pupil - r) / edge * 0.6 + 0.5, 0, 1))
    soft = max(edge * 2, 0.07)
    colour = _lay(colour, iris, np.clip((1 - r) / soft + 0.5, 0, 1))
    pink = np.exp(-(((u + 0.97) / 0.13) ** 2) - ((v - 0.06) / 0.16) ** 2)
    colour = _lay(colour, look.skin * (0.9, 0.6, 0.58) * shade, 0.85 * pink)
    return np.asarray(colour)


def _glints(rng: np.random.Generator, eye: _Eye, colour: Array, seed: int) -> Array:
    """Add the reflections of the lights, the same in both eyes."""
    same = np.random.default_rng(seed)
    lids = eye.lids
    cx, cy = -0.04 + eye.side * lids.gaze[0], lids.low - 0.37 * lids.gap + lids.gaze[1]
    for _ in range(int(same.integers(1, 4))):
        x = cx + eye.side * (eye.look.light[0] * 0.2 + same.normal(0, 0.09))
        y = cy - 0.1 + same.normal(0, 0.09)
        size = same.uniform(0.035, 0.1)
        du, dv = np.abs(eye.u - x) / size, np.abs(eye.v - y) / (size * same.uniform(0.7, 1.3))
        square = same.random() < 0.35
        far = np.maximum(du, dv) if square else np.hypot(du, dv)
        alpha = np.clip((1 - far) * size / eye.pixel * 0.5 + 0.5, 0, 1) * same.uniform(0.5, 1)
        colour = _lay(colour, np.float32(250), alpha)
    return colour


def _lashes(rng: np.random.Generator, eye: _Eye, upper: bool) -> list[Array]:
    curve = eye.up_curve if upper else eye.low_curve
    count = int((28 if upper else 20) * (0.6 + eye.lids.lash))
    u = np.sort(rng.uniform(-0.82 if upper else -0.5, 1.0, count))
    v = np.interp(u, eye.axis, curve)
    length = (0.34 if upper else 0.16) * (0.45 + 0.75 * eye.lids.lash)
    length = length * (0.6 + 0.4 * (u + 1) / 2) * rng.uniform(0.7, 1.2, count)
    fan = u * 0.75 + 0.1 + rng.normal(0, 0.14, count)
    t = np.linspace(0, 1, 5)[:, None]
    out = np.sin(fan) * t + 0.25 * np.sign(u) * t**2
    # an open lid turns its lashes up, a lowered one shows them hanging
    rise = (1.25 * min(eye.open, 1) - 0.5) if upper else -0.9
    down = -np.cos(fan) * (rise * t + (0.3 if upper else 0.0) * t * (t - 1))
    if upper:
        down = down + 0.25 * t * (1 - t) * 2
    return list(np.stack([u + length * out, v + length * down], -1).transpose(1, 0, 2))


def _brow(rng: np.random.Generator, eye: _Eye) -> tuple[Array, list[Array]]:
    """Return the soft body of the brow and its hairs."""
    height, thick, bend, density = (
        np.array(eye.lids.brow) / (eye.lids.half, eye.lids.half, eye.lids.half, 1)
    ).tolist()
    s = eye.axis
    middle = (
        -height
        - bend * np.exp(-(((s - 0.55) / 0.75) ** 2)) * 1.3
        + 0.10 * np.clip(s - 0.6, 0, 2) ** 1.5
    )
    taper = thick * np.clip((s + 1.5) / 0.5, 0, 1) ** 0.5 * np.clip((1.75 - s) / 1.7, 0, 1) ** 0.7
    far = np.abs(eye.v - eye.at(middle, eye.u)) / (eye.at(taper, eye.u) + 0.03)
    ends = np.clip((eye.u + 1.45) / 0.3, 0, 1) * np.clip((1.7 - eye.u) / 0.3, 0, 1)
    body = np.exp(-(far**2) * 1.3) * ends * 0.55 * density
    count = int(150 * density)
    u = rng.uniform(-1.4, 1.6, count)
    v = np.interp(u, s, middle) + rng.uniform(-0.9, 0.9, count) * np.interp(u, s, taper)
    turn = np.interp(u, [-1.4, -0.8, 0.5, 1.6], [-1.3, -0.6, -0.15, 0.35]) + rng.normal(
        0, 0.2, count
    )
    length = rng.uniform(0.12, 0.28, count)
    t = np.linspace(0, 1, 4)[:, None]
    paths = np.stack(
        [u + length * t * np.cos(turn), v + length * (t * np.sin(turn) + 0.12 * t**2)], -1
    )
    return body, list(paths.transpose(1, 0, 2))


def _lid_skin(eye: _Eye, patch: Array, paint: Array) -> Array:
    """Shade the lid, its fold, the lower rim and bag, and what make-up there is."""
    look = eye.look
    up, low, fold = eye.below(eye.up_curve), eye.below(eye.low_curve), eye.below(eye.fold_curve)
    u = eye.u
    near = np.clip((1.35 - np.abs(u - 0.05)) / 0.4, 0, 1)
    dark = np.array([0.84, 0.62, 0.56]) * look.skin / 255
    patch = patch * (1 - 0.1 * np.exp(-((up / 0.35) ** 2)) * near)[..., None]
    shadow = np.exp(-((np.maximum(up * 0.8, -up) / 0.42) ** 2)) * near * (fold > -0.15)
    patch = _lay(patch, paint, (0.75 * look.makeup**1.5 * shadow).astype(np.float32))
    for line, width, depth in ((fold, 0.045, 0.5), (fold + 0.1, 0.16, 0.18),
                               (low - 0.2, 0.1, 0.1 + 0.15 * look.age), (low - 0.08, 0.06, 0.12)):  # fmt: skip
        bend = (depth * np.exp(-((line / width) ** 2)) * near)[..., None]
        patch = patch * (1 - bend * (1 - dark))
    bag = 0.1 * np.exp(-(((low - 0.38) / 0.14) ** 2)) * near * (0.3 + look.age)
    patch = patch * (1 + bag)[..., None]
    rim = np.exp(-(((low - 0.02) / 0.045) ** 2)) * np.clip((1.03 - np.abs(u)) / 0.1, 0, 1)
    lit = patch.mean(axis=2, keepdims=True) / look.skin.mean()
    return _lay(patch, look.skin * (0.98, 0.76, 0.72) * lit, 0.5 * rim)


def draw_eye(rng: np.random.Generator, image: Array, cover: Array, eye: _Eye, seed: int) -> Array:
    """Paint one eye with its brow into image, in place; return its coverage, (size, size)."""
    look, lids = eye.look, eye.lids
    whole = np.zeros(image.shape[:2], np.float32)
    if eye.u.size == 0:
        return whole
    before = image[eye.box].astype(np.float32)
    same = np.random.default_rng(seed)
    paint = same.uniform(0.15, 0.75) * look.skin * same.uniform(0.5, 1.1, 3) * 0.8
    patch = _lid_skin(eye, before, paint)
    near = (np.abs(eye.u) < 1.2) & (np.abs(eye.v) < 0.8)
    lit = np.clip(before[near].mean(0) / look.skin, 0.25, 1.15) if near.any() else np.ones(3)
    up, low = eye.below(eye.up_curve), -eye.below(eye.low_curve)
    sure = np.clip(np.minimum(up, low) / eye.pixel + 0.5, 0, 1) * (np.abs(eye.u) < 1)
    if eye.open < 0.02:
        sure = sure * 0
    tint = np.float32(lit.mean() * 0.85 + 0.12) * np.float32(rng.uniform(0.88, 1.02))
    ball = _ball(rng, eye, np.asarray(tint), lit)
    shade = 1 - 0.62 * np.exp(-((np.maximum(up, 0) / 0.17) ** 1.5)) - 0.12 * np.exp(-low / 0.1)
    ball = _glints(rng, eye, ball * shade[..., None], seed)
    patch = _lay(patch, ball, sure)
    ink = np.minimum(look.hair * 0.35, 46) * np.float32(0.6)
    span = np.clip((1.06 - np.abs(eye.u - 0.03)) / 0.12, 0, 1)
    line = (
        np.exp(-(((up + 0.01) / (0.035 + 0.045 * lids.lash)) ** 2))
        * span
        * (0.45 + 0.5 * lids.lash)
    )
    under = np.exp(-(((low + 0.035) / 0.05) ** 2)) * span * (0.1 + 0.55 * look.makeup**2)
    patch = _lay(patch, ink, np.maximum(line, under * np.clip(eye.u + 0.9, 0, 1)))
    for upper, strength in ((True, 0.35 + 0.6 * lids.lash), (False, 0.12 + 0.45 * lids.lash)):
        marks = eye.strokes(_lashes(rng, eye, upper), 0.022)
        patch = _lay(patch, ink, marks * min(strength, 0.95))
    body, hairs = _brow(rng, eye)
    brow = np.minimum(look.hair * 0.6, 140) * lit
    patch = _lay(patch, brow, body)
    patch = _lay(patch, brow * 0.75, 0.6 * eye.strokes(hairs, 0.02))
    shown = (1 - cover[eye.box])[..., None]
    image[eye.box] = np.clip(before + shown * (patch - before), 0, 255).astype(np.uint8)
    whole[eye.box] = sure * shown[..., 0]
    return whole


def draw_eyes(rng: np.random.Generator, look: Look, image: Array, cover: Array) -> list[Array]:
    """Paint both eyes and brows; return the coverage of the viewer's left and right eye."""
    lids = _draw_lids(rng, look)
    seed = int(rng.integers(1 << 31))
    return [draw_eye(rng, image, cover, _Eye(look, lids, side), seed) for side in (-1, 1)]


def _lens(side: int, shape: tuple[float, float, float], look: Look) -> Array:
    """Outline of a lens in pixels, (48, 2)."""
    half, tall, power = shape
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    x = half * np.sign(c) * np.abs(c) ** power
    y = 0.012 + tall * np.sign(s) * np.abs(s) ** power * (1 + 0.12 * c * side)
    turned = [look.turned(side * 0.128 + v, _EYE_DEPTH + 0.015) for v in x]
    return np.stack([turned, y, np.ones_like(y)], -1) @ look.affine.T


def draw_glasses(rng: np.random.Generator, look: Look, image: Array, cover: Array) -> Array:
    """Paint glasses, in place; return the coverage of frame and lenses, (size, size)."""
    n, fix = look.size, 16
    shape = (rng.uniform(0.085, 0.105), rng.uniform(0.055, 0.085), rng.uniform(0.55, 1.0))
    rings = [np.int32(_lens(side, shape, look) * fix) for side in (-1, 1)]
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
        points = np.array([(look.turned(x, _EYE_DEPTH), y, 1) for x, y in path]) @ look.affine.T
        cv2.polylines(rim, [np.int32(points * fix)], False, 255, thick, cv2.LINE_AA, 4)
    both = cv2.max(lens, rim)
    x0, y0, w, h = cv2.boundingRect(both)
    box = (slice(y0, y0 + h), slice(x0, x0 + w))
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
        patch = _lay(patch, dark * (0.7 + 1.2 * yy[..., None]), inside)
    patch = _lay(patch, np.array([236, 240, 246]), glare * inside)
    ink = rng.uniform(8, 60, 3) if rng.random() < 0.7 else rng.uniform(90, 200, 3)
    patch = _lay(patch, ink * (0.8 + 0.4 * stripe[..., None] ** 2), frame)
    image[box] = np.clip(patch, 0, 255).astype(np.uint8)
    whole = np.zeros((n, n), np.float32)
    whole[box] = np.maximum(inside, frame)
    return whole

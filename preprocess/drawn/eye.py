"""Draw eyes and brows at full resolution into the picture of a face.

An eye has its own axes: u from the inner corner (-1) to the outer one (1), v down, both in half
widths of the aperture.  Lids are curves v(u), so the aperture's coverage is known to a fraction
of a pixel and the mask is the very shape that was painted.
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.drawn.look import EYE_DEPTH, EYE_X, Array, Lids, Look, draw_lids, fractal_noise, lay

# corners of the region of lids and brow, and of that of the aperture, as columns (u, v, 1)
_AROUND = np.array([[-1.8, 2.0, 2.0, -1.8], [-2.9, -2.9, 1.1, 1.1], [1, 1, 1, 1]])
_WITHIN = np.array([[-1.05, 1.05, 1.05, -1.05], [-1.5, -1.5, 0.6, 0.6], [1, 1, 1, 1]])


class _Eye:
    """One eye: its patch of the picture and the coordinates of every pixel of it."""

    def __init__(self, look: Look, lids: Lids, side: int, reach: Array) -> None:
        self.side, self.look, self.lids = side, look, lids
        self.open = look.openness[0 if side < 0 else 1]
        bulge = EYE_DEPTH + 0.03
        x = look.turned(side * EYE_X, EYE_DEPTH)
        slim = np.cos(look.yaw) - side * EYE_X / bulge * np.sin(look.yaw) * 1.3
        tilt = lids.tilt
        local = np.array([[side * lids.half * slim, side * lids.half * tilt * 0.0, x],
                          [-lids.half * tilt, lids.half, 0.0], [0, 0, 1]])  # fmt: skip
        self.map = look.affine @ local
        self.pixel = 1 / float(np.sqrt(abs(np.linalg.det(self.map[:, :2]))))  # in half widths
        corners = self.map @ reach
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
        wide = np.exp(-(np.abs((s - lids.apex * 0.5) / 1.05) ** 2.6))
        lift = lids.gap * max(self.open, 0.55) * 0.92 + lids.crease * (1.25 - 0.5 * self.open)
        self.fold_curve = 0.1 + self.low_curve * 0.5 - wide * lift + 0.04 * s
        self.axis = s

    def at(self, curve: Array, u: Array) -> Array:
        """Look the curve up at u."""
        index = np.clip((u + 2.5) * 400, 0, 2000).astype(np.int32)
        return np.asarray(curve.astype(np.float32)[index])

    def below(self, curve: Array) -> Array:
        """How far every pixel lies below the curve, along v."""
        return np.asarray(self.v - self.at(curve, self.u))

    def aperture(self) -> Array:
        """Coverage of the opening between the lids, exact to a fraction of a pixel."""
        cover = (np.abs(self.u) < 1).astype(np.float32)
        for curve, sign in ((self.up_curve, 1), (self.low_curve, -1)):
            slope = np.gradient(curve, 1 / 400)
            steep = self.at(1 / np.sqrt(1 + slope**2), self.u)
            cover *= np.clip(sign * self.below(curve) * steep / self.pixel + 0.5, 0, 1)
        return np.asarray(cover)

    def strokes(self, paths: Array, width: float) -> Array:
        """Coverage of lines given as (lines, k, 2) of (u, v), drawn finely whatever the size."""
        fine = 1 if self.pixel < 0.03 else 3
        shape = (self.u.shape[0] * fine, self.u.shape[1] * fine)
        mask = np.zeros(shape, np.uint8)
        points = (paths @ self.map[:, :2].T + self.map[:, 2] - self.origin) * fine - 0.5
        thick = max(1, round(width / self.pixel * fine))
        lines = list((points * 16).astype(np.int32))
        cv2.polylines(mask, lines, False, 255, thick, cv2.LINE_AA, 4)
        if fine > 1:
            mask = cv2.resize(mask, self.u.shape[::-1], interpolation=cv2.INTER_AREA)
        return mask.astype(np.float32) / 255


def _ball(rng: np.random.Generator, eye: _Eye, tint: Array, shade: Array) -> Array:
    """Colour of the eyeball for every pixel of the patch."""
    look, lids, u, v = eye.look, eye.lids, eye.u, eye.v
    red = 0.25 + 0.75 * np.clip(np.abs(u), 0, 1) ** 2
    sclera = np.array([212, 203, 196], np.float32) * tint
    vein = np.clip(fractal_noise(rng, u.shape[0], u.shape[1], 0.25) - 0.6, 0, 1) * red * 0.5
    flush = (red * 0.16 + vein)[..., None] * np.array([0.15, 0.55, 0.5], np.float32)
    colour = sclera * (1 - flush) * (1 - 0.32 * np.clip(np.abs(u), 0, 1.1) ** 3)[..., None]
    gx, gy = lids.gaze
    cx, cy = -0.04 + eye.side * gx, -0.5 * lids.gap * 0.78 + lids.low + gy + 0.02
    dx, dy = (u - cx) * (1 + 0.25 * gx * gx), v - cy
    r = np.hypot(dx, dy) / lids.iris
    angle = np.arctan2(dy, dx)
    edge = eye.pixel / lids.iris
    phase = rng.uniform(0, 6.28, 4)
    rays = sum(np.cos(k * angle + p + 1.5 * np.sin(3 * r + p)) * a for k, p, a in zip(
        (5, 13, 29, 53), phase, (0.3, 0.45, 0.5, 0.5), strict=True))  # fmt: skip
    glow = 1 + 0.5 * np.clip((dx * -look.light[0] * eye.side + dy) / lids.iris, -0.5, 1)
    iris = look.iris * (1 + 0.16 * rays * np.clip(r * 2 - 0.5, 0, 1))[..., None] * glow[..., None]
    inner = np.clip(1 - np.abs(r - lids.pupil - 0.1) / 0.22, 0, 1)[..., None] * rng.uniform(0, 0.6)
    iris = iris + inner * (np.array([120, 78, 34]) - iris) * np.float32(0.5)
    ring = np.clip((r - 0.72) / 0.25, 0, 1) ** 1.5 * rng.uniform(0.5, 0.85)
    iris = iris * tint * (1 - ring)[..., None]
    iris = lay(iris, np.array([9, 7, 7]), np.clip((lids.pupil - r) / edge * 0.6 + 0.5, 0, 1))
    soft = max(edge * 2, 0.07)
    colour = lay(colour, iris, np.clip((1 - r) / soft + 0.5, 0, 1))
    pink = np.exp(-(((u + 0.97) / 0.13) ** 2) - ((v - 0.06) / 0.16) ** 2)
    colour = lay(colour, look.skin * np.array([0.9, 0.6, 0.58], np.float32) * shade, 0.85 * pink)
    return np.asarray(colour)


def _glints(eye: _Eye, colour: Array, seed: int) -> Array:
    """Add the reflections of the lights, the same in both eyes."""
    same = np.random.default_rng(seed)
    lids = eye.lids
    cx, cy = -0.04 + eye.side * lids.gaze[0], lids.low - 0.37 * lids.gap + lids.gaze[1]
    for _ in range(int(same.integers(1, 4))):
        x = cx + eye.side * float(eye.look.light[0] * 0.2 + same.normal(0, 0.09))
        y = cy - 0.1 + float(same.normal(0, 0.09))
        size = float(same.uniform(0.035, 0.09))
        du, dv = np.abs(eye.u - x) / size, np.abs(eye.v - y) / (size * same.uniform(0.7, 1.3))
        square = same.random() < 0.35
        far = np.maximum(du, dv) if square else np.hypot(du, dv)
        alpha = np.clip((1 - far) * size / eye.pixel * 0.5 + 0.5, 0, 1) * same.uniform(0.5, 1)
        colour = lay(colour, np.full(3, 250, np.float32), alpha)
    return colour


def _lashes(rng: np.random.Generator, eye: _Eye, upper: bool) -> Array:
    curve = eye.up_curve if upper else eye.low_curve
    count = int((28 if upper else 20) * (0.6 + eye.lids.lash))
    u = np.sort(rng.uniform(-0.82 if upper else -0.5, 1.0, count))
    v = np.interp(u, eye.axis, curve)
    longest = (0.34 if upper else 0.16) * (0.45 + 0.75 * eye.lids.lash)
    length = longest * (0.6 + 0.4 * (u + 1) / 2) * rng.uniform(0.7, 1.2, count)
    fan = u * 0.75 + 0.1 + rng.normal(0, 0.14, count)
    t = np.linspace(0, 1, 5)[:, None]
    out = np.sin(fan) * t + 0.25 * np.sign(u) * t**2
    # an open lid turns its lashes up, a lowered one shows them hanging
    rise = (1.25 * min(eye.open, 1) - 0.5) if upper else -0.9
    down = -np.cos(fan) * (rise * t + (0.3 if upper else 0.0) * t * (t - 1))
    if upper:
        down = down + 0.25 * t * (1 - t) * 2
    return np.stack([u + length * out, v + length * down], -1).transpose(1, 0, 2)


def _brow(rng: np.random.Generator, eye: _Eye) -> tuple[Array, Array]:
    """Return the soft body of the brow and its hairs."""
    density = eye.lids.brow[3]
    height, thick, bend = (v / eye.lids.half for v in eye.lids.brow[:3])
    s = eye.axis
    peak = bend * 1.3 * np.exp(-(((s - 0.55) / 0.75) ** 2))
    middle = 0.1 * np.clip(s - 0.6, 0, 2) ** 1.5 + 0.07 * s - height - peak
    taper = thick * np.clip((s + 1.5) / 0.5, 0, 1) ** 0.5 * np.clip((1.75 - s) / 1.7, 0, 1) ** 0.7
    far = np.abs(eye.v - eye.at(middle, eye.u)) / (eye.at(taper, eye.u) + 0.03)
    ends = np.clip((eye.u + 1.5) / 0.5, 0, 1) * np.clip((1.7 - eye.u) / 0.3, 0, 1)
    body = np.exp(-(far**2) * 1.3) * ends * 0.75 * density
    count = int(230 * density)
    u = rng.uniform(-1.4, 1.6, count)
    v = np.interp(u, s, middle) + rng.uniform(-0.9, 0.9, count) * np.interp(u, s, taper)
    turn = np.interp(u, [-1.4, -0.8, 0.5, 1.6], [-1.3, -0.6, -0.15, 0.35])
    turn = turn + rng.normal(0, 0.2, count)
    length = rng.uniform(0.12, 0.28, count)
    t = np.linspace(0, 1, 4)[:, None]
    paths = np.stack(
        [u + length * t * np.cos(turn), v + length * (t * np.sin(turn) + 0.12 * t**2)], -1
    )
    return body, paths.transpose(1, 0, 2)


def _lid_skin(eye: _Eye, patch: Array, paint: Array) -> Array:
    """Shade the lid, its fold, the lower rim and bag, and what make-up there is."""
    look = eye.look
    up, low, fold = eye.below(eye.up_curve), eye.below(eye.low_curve), eye.below(eye.fold_curve)
    u = eye.u
    near = np.clip((1.35 - np.abs(u - 0.05)) / 0.4, 0, 1)
    dark = np.array([0.84, 0.62, 0.56], np.float32) * look.skin / 255
    patch = patch * (1 - 0.1 * np.exp(-((up / 0.35) ** 2)) * near)[..., None]
    shadow = np.exp(-((np.maximum(up * 0.8, -up) / 0.42) ** 2)) * near * (fold > -0.15)
    patch = lay(patch, paint, (0.75 * look.makeup**1.5 * shadow).astype(np.float32))
    for line, width, depth in ((fold, 0.06, 0.34), (fold + 0.12, 0.2, 0.2),
                               (low - 0.2, 0.1, 0.1 + 0.15 * look.age),
                               (low - 0.08, 0.06, 0.12)):  # fmt: skip
        bend = (depth * np.exp(-((line / width) ** 2)) * near)[..., None]
        patch = patch * (1 - bend * (1 - dark))
    bag = 0.1 * np.exp(-(((low - 0.38) / 0.14) ** 2)) * near * (0.3 + look.age)
    patch = patch * (1 + bag)[..., None]
    rim = np.exp(-(((low - 0.02) / 0.045) ** 2)) * np.clip((1.03 - np.abs(u)) / 0.1, 0, 1)
    lit = patch.mean(axis=2, keepdims=True) / look.skin.mean()
    return lay(patch, look.skin * np.array([0.98, 0.76, 0.72], np.float32) * lit, 0.5 * rim)


def _set_ball(
    rng: np.random.Generator, eye: _Eye, ball: _Eye, patch: Array, lit: Array, seed: int
) -> tuple[Array, Array]:
    """Paint the eyeball between the lids; return the patch and the aperture's coverage."""
    sure = np.zeros(eye.u.shape, np.float32)
    if eye.open < 0.02 or ball.u.size == 0:
        return patch, sure
    up, low = ball.below(ball.up_curve), -ball.below(ball.low_curve)
    within = ball.aperture()
    tint = np.float32(lit.mean() * 0.85 + 0.1) * np.float32(rng.uniform(0.88, 1.02))
    colour = _ball(rng, ball, np.asarray(tint), lit)
    shade = 1 - 0.62 * np.exp(-((np.maximum(up, 0) / 0.17) ** 1.5)) - 0.12 * np.exp(-low / 0.1)
    colour = _glints(ball, colour * shade[..., None], seed)
    x, y = ball.origin - eye.origin
    box = (slice(y, y + ball.u.shape[0]), slice(x, x + ball.u.shape[1]))
    patch[box] = lay(patch[box], colour, within)
    sure[box] = within
    return patch, sure


def draw_eye(
    rng: np.random.Generator, image: Array, cover: Array, eye: _Eye, ball: _Eye, seed: int
) -> Array:
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
    patch, sure = _set_ball(rng, eye, ball, patch, lit, seed)
    up, low = eye.below(eye.up_curve), -eye.below(eye.low_curve)
    ink = np.minimum(look.hair * 0.35, 46) * np.float32(0.6)
    span = np.clip((1.06 - np.abs(eye.u - 0.03)) / 0.12, 0, 1)
    line = (
        np.exp(-(((up + 0.01) / (0.035 + 0.045 * lids.lash)) ** 2))
        * span
        * (0.45 + 0.5 * lids.lash)
    )
    under = np.exp(-(((low + 0.035) / 0.05) ** 2)) * span * (0.1 + 0.55 * look.makeup**2)
    patch = lay(patch, ink, np.maximum(line, under * np.clip(eye.u + 0.9, 0, 1)))
    for upper, strength in ((True, 0.35 + 0.6 * lids.lash), (False, 0.12 + 0.45 * lids.lash)):
        marks = eye.strokes(_lashes(rng, eye, upper), 0.022)
        patch = lay(patch, ink, marks * min(strength, 0.95))
    body, hairs = _brow(rng, eye)
    brow = np.minimum(look.hair * 0.75, 120) * lit
    patch = lay(patch, brow, body)
    patch = lay(patch, brow * 0.75, 0.42 * eye.strokes(hairs, 0.016))
    shown = (1 - cover[eye.box])[..., None]
    image[eye.box] = np.clip(before + shown * (patch - before), 0, 255).astype(np.uint8)
    whole[eye.box] = sure * shown[..., 0]
    return whole


def draw_eyes(rng: np.random.Generator, look: Look, image: Array, cover: Array) -> list[Array]:
    """Paint both eyes and brows; return the coverage of the viewer's left and right eye."""
    lids = draw_lids(rng, look)
    seed = int(rng.integers(1 << 31))
    whole = []
    for side in (-1, 1):
        lid, ball = (_Eye(look, lids, side, reach) for reach in (_AROUND, _WITHIN))
        whole.append(draw_eye(rng, image, cover, lid, ball, seed))
    return whole

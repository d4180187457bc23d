"""Draw the head of a procedural face upright: background, skin, mouth, beard, hair, hand.

Everything soft is drawn upright in a frame of lower resolution which is then rolled, scaled and
enlarged into the picture at once; eyes and glasses follow at full resolution (`preprocess.eye`).
"""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.drawn.camera import draw_background
from preprocess.drawn.look import (
    EYE_DEPTH,
    EYE_X,
    SPAN,
    Array,
    Look,
    blend,
    bump,
    fractal_noise,
    frame_grid,
    noise_tiles,
    profile,
    tinted,
)


def _shading(rng: np.random.Generator, look: Look, n: int) -> Array:
    """Return the skin of the frame, (n, n, 3) uint8: a height map lit from one side."""
    m = max(n // 4, 72)
    x, y, _, _ = frame_grid(m)
    at, middle = look.turned, look.turned(0, 0)
    q = 1 - ((x - middle) / (look.width * 1.12)) ** 2 - ((y - 0.02) / 0.52) ** 2
    z = 0.25 * np.sqrt(np.clip(q, 0.02, 1)).astype(np.float32)
    rise = np.clip((y + 0.05) / 0.18, 0, 1) / (1 + np.exp((y - 0.145) / 0.008))
    tip = at(0, 0.3)
    bridge = at(0, 0.25) + (tip - at(0, 0.25)) * np.clip((y + 0.05) / 0.18, 0, 1)
    z = z + 0.05 * rise * np.exp(-(((x - bridge) / (0.031 + 0.01 * rise)) ** 2))
    for s in (-1, 1):
        ex = at(s * EYE_X, EYE_DEPTH)
        z = z - 0.020 * bump(x, y, ex - s * 0.02, -0.005, 0.065, 0.035)
        z = z + 0.010 * bump(x, y, ex, -0.085, 0.08, 0.03)
        z = z + 0.016 * bump(x, y, at(s * 0.125, 0.22), 0.105, 0.06, 0.05)
        z = z + 0.014 * bump(x, y, at(s * 0.034, 0.27), 0.132, 0.017, 0.016)
        fold = at(s * 0.062, 0.27) + s * (y - 0.14) * 0.45
        line = np.exp(-(((x - fold) / 0.014) ** 2)) * np.exp(-(((y - 0.18) / 0.05) ** 2))
        z = z - (0.002 + 0.004 * look.age) * line
    z = z + 0.014 * bump(x, y, at(0, 0.28), 0.235, 0.07, 0.035)
    z = z + 0.022 * bump(x, y, at(0, 0.27), 0.345, 0.06, 0.04)
    z = z + (0.0002 + 0.0006 * look.age) * fractal_noise(rng, m, m, 0.7)
    gy, gx = np.gradient(z, 2 * SPAN / m)
    normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    ambient = rng.uniform(0.35, 0.68)
    lit = ambient + (1 - ambient) * np.clip(normal @ look.light, 0, 1) / look.light[2] * 0.97
    half = look.light + (0, 0, 1)
    gloss = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 14 * rng.uniform(2, 30)
    for cx, cy, sx, sy, depth in (
        (at(0, 0.28), 0.158, 0.045, 0.012, 0.3), (at(0, 0.28), 0.275, 0.05, 0.014, 0.15),
        (at(-0.065, 0.24), -0.012, 0.026, 0.03, 0.16), (at(0.065, 0.24), -0.012, 0.026, 0.03, 0.16),
    ):  # fmt: skip
        lit = lit * (1 - depth * bump(x, y, cx, cy, sx, sy))
    # blood under the skin: shadows turn red, cheeks and nose too
    colour = look.skin * np.clip(lit, 0.12, 1.3)[..., None] ** np.array([0.82, 1.04, 1.12])
    flush = bump(x, y, at(-0.14, 0.2), 0.1, 0.06, 0.05) + bump(x, y, at(0.14, 0.2), 0.1, 0.06, 0.05)
    flush = flush + 0.7 * bump(x, y, tip, 0.12, 0.035, 0.03)
    flush = flush * rng.uniform(0.2, 1.3) + 0.25 * fractal_noise(rng, m, m, 0.4)
    colour = colour * (1 + flush[..., None] * np.array([0.03, -0.045, -0.035])) + gloss[..., None]
    small = np.clip(colour, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(small, (n, n), interpolation=cv2.INTER_CUBIC))


def _features(rng: np.random.Generator, look: Look, skin: Array) -> Array:
    """Add nostrils, lips, teeth and beard to the skin, in place."""
    x, y, _, _ = frame_grid(len(skin))
    k = len(skin) / (2 * SPAN)
    left, top, right, bottom = (int((v + SPAN) * k) for v in (-0.24, 0.12, 0.24, 0.34))
    x, y, frame = x[:, left:right], y[top:bottom], skin[top:bottom, left:right]
    h, w = frame.shape[:2]
    smile, gap = rng.uniform(-0.004, 0.02), max(0.0, rng.normal(0.002, 0.014))
    half = rng.uniform(0.07, 0.085) + smile
    t = np.linspace(-1, 1, 25)
    arch = (1 - t**2) ** 0.8

    def fill(low: Array, high: Array, blur: float) -> Array:
        mouth = np.array([look.turned(v, 0.27) for v in t * half])
        ring = np.stack([np.r_[mouth, mouth[::-1]], np.r_[low, high[::-1]]], -1)
        mask = np.zeros((h, w), np.uint8)
        points = (((ring + SPAN) * k - (left + 0.5, top + 0.5)) * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)
        return cv2.blur(mask, (2 * int(blur * k) + 1,) * 2).astype(np.float32) / 255

    line = 0.236 - smile * 1.2 * t**2
    bow = 1 - 0.25 * np.exp(-((t / 0.14) ** 2))
    bow = line - gap * (1 - t**2) - rng.uniform(0.014, 0.024) * arch * bow
    below = line + gap * (1 - t**2) + rng.uniform(0.018, 0.032) * arch
    tint = rng.uniform(0.3, 1) * np.array([1.0, 0.55, 0.6]) if look.makeup > 0.5 else np.ones(3)
    lip = look.skin * (0.86, 0.6, 0.6) * 0.6 + 0.4 * look.skin * (0.9, 0.62, 0.62) * tint
    texture = np.float32(rng.normal(0, 1, (1, w)))
    shade = frame.astype(np.float32).mean(2) / look.skin.mean() * (1 + 0.03 * texture)
    colour = np.clip(shade[..., None] * lip.astype(np.float32), 0, 255).astype(np.uint8)
    frame = blend(frame, colour, 0.92 * fill(bow, below, 0.003))
    inner = gap * (1 - t**2)
    dark = fill(line - inner - 0.002, line + inner + 0.002, 0.003)
    frame = blend(frame, np.minimum(look.skin * (0.35, 0.18, 0.18), 90), 0.85 * dark)
    if gap > 0.006:
        teeth = fill(line - inner * 0.95, line + inner * 0.4, 0.004)
        white = np.float32(0.55 * look.skin.mean() + 90) * np.array([1.0, 0.96, 0.9])
        frame = blend(frame, white, 0.85 * teeth * np.clip(1.15 - (x / half) ** 2, 0, 1))
    for s in (-1, 1):
        hole = bump(x, y, look.turned(s * 0.021, 0.29), 0.149, 0.0105, 0.006)
        frame = blend(frame, look.skin * 0.22, 0.8 * hole)
    return _beard(rng, look, skin, (top, left), fill(bow, below, 0.003)) if look.beard else skin


def _beard(
    rng: np.random.Generator, look: Look, skin: Array, corner: tuple[int, int], lips: Array
) -> Array:
    """Add the beard, except on the lips, whose coverage lies at corner (row, column)."""
    n = len(skin)
    x, y, _, _ = frame_grid(n)
    aside = np.abs(x - look.turned(0, 0.2))
    # the cheeks stay bare above a line from the ear to the corner of the mouth
    upper = 0.2 - 0.2 * np.clip((aside - 0.08) / 0.16, 0, 1) ** 1.5
    region = np.clip((y - upper + 0.015) / 0.05, 0, 1) * look.beard
    (row, column), (h, w) = corner, lips.shape
    region[row : row + h, column : column + w] *= 1 - lips
    grain = rng.standard_normal((n, n), np.float32) * np.float32(0.25) + np.float32(0.62)
    grain += 0.12 * fractal_noise(rng, n, n, 4)
    return blend(skin, look.hair * 0.8, np.clip(region * grain, 0, 0.9))


def _strands(rng: np.random.Generator, look: Look, n: int, radial: bool) -> Array:
    """Return hair tone (n, n), about 0 to 1, strands along arcs about the head or radial."""
    _, _, radius, angle = frame_grid(n)
    curl = {"afro": 1.0, "curly": 0.7}.get(look.style, float(rng.uniform(0.05, 0.25)))
    m = max(n // 4, 32)
    wave = fractal_noise(rng, m, m, 12 - 6 * curl) * (10 + 6 * curl)
    if curl > 0.5:
        wave = wave + fractal_noise(rng, m, m, 1.0) * 11 * curl
    wave = np.asarray(cv2.resize(wave, (n, n), interpolation=cv2.INTER_LINEAR))
    fine = rng.uniform(0.8, 1.3)
    if radial:
        across, along = angle * np.float32(110 * fine), radius * np.float32(150)
    else:
        across, along = radius * np.float32(330 * fine), angle * np.float32(26)
    tone = cv2.remap(noise_tiles()[1], across + (wave + 500), along + (wave * 0.15 + 100),
                     cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)  # fmt: skip
    lit = max(0.0, -float(look.light[1])) * 0.5
    sheen = lit * np.exp(-(((frame_grid(n)[2] - 0.36) / 0.06) ** 2))
    side = 1 + 0.5 * look.light[0] * np.sin(angle)
    return np.asarray(np.clip((0.4 + 0.15 * tone + sheen) * side, 0, 1), np.float32)


def _hair_colour(look: Look, tone: Array, gain: float) -> Array:
    ramp = np.linspace(0.25, 2.1, 256)[:, None] * look.hair + np.linspace(-6, 26, 256)[:, None]
    lut = np.clip(ramp * gain, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(cv2.merge([(tone * 255).astype(np.uint8)] * 3), lut))


def _head_outline(rng: np.random.Generator, look: Look, y: Array) -> Array:
    """Half width of the bare head at every y."""
    jaw, power = rng.uniform(0.35, 0.39), rng.uniform(2.2, 3.0)
    up, down = np.clip(-y / 0.43, 0, 1), np.clip(y / jaw, 0, 1)
    upper, lower = (1 - up**2.3) ** (1 / 2.1), (1 - down**power) ** (1 / 1.7)
    return np.asarray(look.width * np.where(y < 0, upper, lower))


def _hair_body(rng: np.random.Generator, look: Look, xs: Array, y: Array, tone: Array) -> Array:
    """Coverage of all the hair, in front of the face and behind it."""
    extra = {"bald": -0.03, "buzz": 0.004, "afro": 0.13, "short": 0.025}.get(look.style, 0.05)
    extra *= rng.uniform(0.7, 1.5)
    top = np.clip((y + 0.02) / -(0.43 + extra), 0, 1)
    wide = (look.width + extra) * np.sqrt(1 - top**2)
    ends = {"short": 0.05, "buzz": 0.03, "bald": -0.3, "afro": 0.22}
    end = ends.get(look.style, float(rng.uniform(0.28, 0.95)))
    spread = 0.0 if look.style in ends else rng.uniform(-0.05, 0.35)
    wide = wide + np.clip(y + 0.02, 0, 0.4) * spread
    if look.style == "afro":
        wide = wide * np.sqrt(np.clip(1 - (np.clip(y, 0, 1) / 0.24) ** 2, 0, 1))
    fray = (tone - 0.4) * max(extra, 0.015) * 0.7
    shape = profile(wide + 0 * y, np.abs(xs) - fray, 3 * 2 * SPAN / len(tone))
    return np.asarray(shape * np.clip((end - y + (tone - 0.4) * 0.25) / 0.04, 0, 1), np.float32)


def _front(rng: np.random.Generator, look: Look, xs: Array, y: Array, tone: Array) -> Array:
    """Coverage of the hair in front of the face, from its hairline."""
    n = len(tone)
    start = {"bald": -0.9, "buzz": -0.27, "afro": -0.24}.get(look.style, rng.uniform(-0.32, -0.22))
    walls = {"short": (0.3, 6.0), "buzz": (0.27, 7.0), "afro": (0.3, 6.0), "bald": (0.4, 8.0)}
    loose = (float(rng.uniform(0.35, 1.0)), float(rng.uniform(4.0, 9.0)))
    reach, bend = walls.get(look.style, loose)
    # the hairline lies on the front of the head: it turns with it, the temples hardly do
    parting = float(np.clip(rng.normal(0, 0.06), -0.12, 0.12)) + 0.12 * float(np.sin(look.yaw))
    aside = xs - parting
    apart = aside / (look.width * rng.uniform(0.97, 1.08) - np.sign(aside) * parting)
    line = start + reach * np.abs(apart) ** bend
    jag = (tone - 0.4) * 0.06
    if look.style == "fringe":
        jag = jag + fractal_noise(rng, 2, n, 5)[:1] * 0.02
        line = np.maximum(line, rng.uniform(-0.16, -0.05) + rng.normal(0, 0.2) * xs)
    return np.clip((line - y + jag) / 0.014 + 0.5, 0, 1).astype(np.float32)


def _dress(rng: np.random.Generator, look: Look, frame: Array, xs: Array) -> None:
    """Add neck, clothes and ears, in place."""
    n = len(frame)
    _, y, _, _ = frame_grid(n)
    row = int((0.14 + SPAN) * n / (2 * SPAN))  # nothing of neck and clothes lies higher
    head, frame, y = frame, frame[row:], y[row:]
    px, middle = 2 * SPAN / n, look.turned(0, 0)
    wide = look.width * rng.uniform(0.62, 0.8)
    neck = np.clip((wide - np.abs(xs)) / (4 * px) + 0.5, 0, 1) * (y > 0.15)
    depth = np.clip(1.5 * (y - 0.25), 0, 0.25) + 0.5 - 0.25 * (xs / wide) ** 2
    depth = depth + 0.25 * look.light[0] * xs / wide
    blend(frame, tinted(look.skin * (1.05, 0.95, 0.92), depth), neck)
    fall = rng.uniform(0.4, 0.5) + np.maximum(np.abs(xs) - 0.12, 0) * rng.uniform(0.2, 0.6)
    dip = rng.uniform(0.0, 0.16) * np.exp(-((xs / rng.uniform(0.08, 0.16)) ** 2))
    cloth = np.clip((y - fall - dip) / (3 * px), 0, 1) * (np.abs(xs) < 0.66)
    grey = rng.uniform(10, 225)
    dye = grey + (rng.uniform(0, 255, 3) - grey) * rng.uniform(0, 0.6)
    folds = 0.8 + 0.12 * fractal_noise(rng, n - row, n, 4) + np.float32(0.2 * look.light[0]) * xs
    blend(frame, tinted(dye, folds), cloth)
    rows = slice(int((SPAN - 0.03) * n / (2 * SPAN)), row)
    frame, y = head[rows], frame_grid(n)[1][rows]
    for s in (-1, 1):
        at, turn = s * (look.width + 0.004), -s * middle * 0.25
        du, dv = (xs - at - turn) / 0.03, (y - 0.055) / 0.075
        ear = du**2 + dv**2
        inner = np.exp(-(((xs - at - turn) / 0.012) ** 2) - ((y - 0.05) / 0.04) ** 2)
        lit = (0.85 + 0.3 * s * look.light[0]) * (1 - 0.35 * inner)
        lit = lit * np.clip(1.25 - 0.5 * ear, 0.5, 1)
        tinge = tinted(look.skin * (1.0, 0.9, 0.88), lit)
        blend(frame, tinge, np.clip((1 - ear) * 6, 0, 1))


def draw_frame(rng: np.random.Generator, look: Look) -> tuple[Array, Array, Array]:
    """Return the upright picture (n, n, 3) uint8, cover and skin, both (n, n) float32 in 0 to 1.

    Cover is what lies in front of the eyes: a fringe, a strand, a hand.
    """
    n = int(max(look.size * 0.4, 150) * 2 * SPAN)
    x, y, _, _ = frame_grid(n)
    xs = x - look.turned(0, 0)
    head = profile(_head_outline(rng, look, y), xs, 3 * 2 * SPAN / n)
    tone = _strands(rng, look, n, radial=look.style in ("short", "buzz", "afro"))
    behind = _hair_colour(look, tone, 0.75)
    hair = _hair_body(rng, look, xs, y, tone)
    frame = blend(draw_background(rng, n), behind, hair)
    skin = _features(rng, look, _shading(rng, look, n))
    _dress(rng, look, frame, xs)
    if look.style not in ("short", "buzz", "bald", "afro"):
        frame = blend(frame, behind, hair * (np.abs(xs) > look.width * 0.8))
    cover = _front(rng, look, xs, y, tone) * np.maximum(hair, head * (y < -0.1))
    # hair shades the skin beside it
    soft = cv2.resize(cover, (n // 4, n // 4), interpolation=cv2.INTER_AREA)
    soft = cv2.blur(cv2.blur(soft, (n // 90 | 1,) * 2), (n // 90 | 1,) * 2)
    shade = 255 - np.asarray(soft) * 110
    shade = cv2.resize(shade.astype(np.uint8), (n, n))
    skin = cv2.multiply(skin, cv2.merge([shade] * 3), scale=1 / 255)
    frame = blend(frame, skin, head)
    front = _hair_colour(look, np.clip(tone + 0.03, 0, 1), 1.0)
    frame = blend(frame, front, cover)
    if look.hidden in ("hair", "hand"):
        frame, cover = _hide(rng, look, frame, front, cover)
    return frame, cover, head * (1 - cover)


def _hide(
    rng: np.random.Generator, look: Look, frame: Array, hair: Array, cover: Array
) -> tuple[Array, Array]:
    """Lay a lock of hair or a hand over one eye."""
    n = len(frame)
    x, y, _, _ = frame_grid(n)
    side = look.hidden_side
    eye = look.turned(side * EYE_X, EYE_DEPTH)
    if look.hidden == "hair":
        bow = eye + side * 0.03 - side * 0.5 * (y - 0.05) ** 2
        edge = 0.085 + 0.35 * np.clip(-y - 0.1, 0, 0.3) + 0.02 * (hair[..., 0] / 255.0 - 0.5)
        lock = np.clip((edge - np.abs(x - bow)) / 0.012, 0, 1) * np.clip((y + 0.36) / 0.03, 0, 1)
        lock = lock * np.clip((0.45 - y) / 0.1, 0, 1)
        return blend(frame, hair, lock), np.maximum(cover, lock.astype(np.float32))
    k, mask = n / (2 * SPAN), np.zeros((n, n), np.uint8)
    lean = rng.uniform(-0.1, 0.25) * side
    for finger in range(4):
        height = -0.08 - 0.02 * (finger in (1, 2)) + rng.normal(0, 0.01)
        tip = np.array([eye + (finger - 1.5) * 0.043, height])
        root = tip + (side * 0.1 + lean, 0.4)
        ends = (((np.stack([tip, root]) + SPAN) * k) * 16).astype(np.int32)
        cv2.line(mask, ends[0].tolist(), ends[1].tolist(), 255, int(0.047 * k), cv2.LINE_AA, 4)
    hand = mask.astype(np.float32) / 255
    relief = cv2.blur(hand, (int(0.03 * k) | 1,) * 2)
    across = x - eye - (side * 0.1 + lean) * (y + 0.08) / 0.4
    gaps = np.clip(np.cos(across * 2 * np.pi / 0.043), 0, 1)
    lit = (0.55 + 0.45 * relief) * (0.75 + 0.3 * (1 - gaps)) * 0.92
    colour = np.clip(look.skin * lit[..., None], 0, 255).astype(np.uint8)
    return blend(frame, colour, hand), np.maximum(cover, hand)

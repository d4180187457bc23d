"""Photographs unlike the training set: what each difficulty does to a picture and its mask.

A difficulty turns a labelled square into a harder one whose truth is still known, at three
strengths. Some change the picture only; those that move or hide eyes change the mask as well.
What cannot be made from a photograph is imitated: closing lids by squeezing the eye region, a
turned head by foreshortening it, glasses and a hand by drawing them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.image import RGB
from preprocess.mask import eye_boxes

Mask = npt.NDArray[np.uint8]
Rng = np.random.Generator
Pair = tuple[RGB, Mask]
NO_EYES = ("painted over", "mouth and chin", "hair and forehead")


@dataclass(frozen=True)
class Difficulty:
    """One kind of harder picture."""

    name: str
    unit: str  # what its figures count
    figures: tuple[float, float, float]  # weak, medium, strong
    # (RGB, mask, figure, generator) to (RGB, mask): H x W x 3 and H x W uint8, mask 0 or 255.
    apply: Callable[[RGB, Mask, float, Rng], Pair]


def _whole(eyes: npt.NDArray[np.generic] | cv2.typing.MatLike) -> Mask:
    """Make a mask that was interpolated one of 0 and 255 again."""
    return np.where(np.asarray(eyes) > 127, np.uint8(255), np.uint8(0))


def _levels(values: npt.NDArray[np.floating]) -> RGB:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _moved(
    image: RGB, mask: Mask, linear: list[list[float]], by: tuple[float, float] = (0, 0)
) -> Pair:
    """Apply a 2 x 2 map about the centre, old to new pixels, then move by x and y pixels.

    If the map shrinks, the picture is sampled from a blurred one, as a camera would see it.
    """
    map_ = np.array(linear, np.float64)
    size = mask.shape[::-1]
    centre = (np.array(size) - 1) / 2
    matrix = np.concatenate([map_, (centre - map_ @ centre + by)[:, None]], axis=1)
    scale = np.sqrt(abs(np.linalg.det(map_)))
    if scale < 1:
        sigma = 0.5 * np.sqrt(1 / scale**2 - 1)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma), np.uint8)
    picture = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    eyes = cv2.warpAffine(mask, matrix, size, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(picture, np.uint8), _whole(eyes)


def _scale(image: RGB, mask: Mask, figure: float, _: Rng) -> Pair:
    return _moved(image, mask, [[figure, 0], [0, figure]])


def _roll(image: RGB, mask: Mask, figure: float, rng: Rng) -> Pair:
    angle = np.deg2rad(figure) * rng.choice([-1, 1])
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return _moved(image, mask, [[cos, -sin], [sin, cos]])


def _shift(image: RGB, mask: Mask, figure: float, rng: Rng) -> Pair:
    angle, distance = rng.uniform(0, 2 * np.pi), figure * mask.shape[0]
    by = distance * np.cos(angle), distance * np.sin(angle)
    return _moved(image, mask, [[1, 0], [0, 1]], by)


def _profile(image: RGB, mask: Mask, figure: float, _: Rng) -> Pair:
    return _moved(image, mask, [[figure, 0], [0, 1]])


def _grey(image: RGB, mask: Mask, figure: float, _: Rng) -> Pair:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return _levels(grey + (1 - figure) * (image - grey.astype(np.float64))), mask


def _dark(image: RGB, mask: Mask, figure: float, rng: Rng) -> Pair:
    """Less light, and the noise of a sensor that counts few photons."""
    photons = 4096 * figure
    light = np.power(image / 255.0, 2.2) * photons
    seen = np.maximum(light + np.sqrt(light + 4) * rng.standard_normal(image.shape), 0)
    return _levels(255 * np.power(seen / 4096, 1 / 2.2)), mask


def _blur(image: RGB, mask: Mask, figure: float, _: Rng) -> Pair:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), figure), np.uint8), mask


def _noise(image: RGB, mask: Mask, figure: float, rng: Rng) -> Pair:
    return _levels(image + figure * rng.standard_normal(image.shape)), mask


def _jpeg(image: RGB, mask: Mask, figure: float, _: Rng) -> Pair:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(figure)])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1], mask


def _squint(image: RGB, mask: Mask, figure: float, _: Rng) -> Pair:
    """Bring the lids together: squeeze the rows around each eye, fading out beyond it."""
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    source = y.copy()
    for cx, cy, w, h in eye_boxes(mask):
        reach = max(2.2 * h, 0.8 * w)  # brow to cheek
        beside = np.clip(1.5 - np.abs(x - cx) / w, 0, 1)  # 1 over the eye, 0 a width away
        from_eye = (y - cy) / reach
        # Odd, slope 1 / figure at the eye, meets the identity at +-1.
        bent = from_eye + (1 / figure - 1) * from_eye * np.clip(1 - np.abs(from_eye), 0, 1) ** 2
        source += (bent - from_eye) * reach * beside * beside * (3 - 2 * beside)
    source = source.astype(np.float32)
    picture = cv2.remap(image, x, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    eyes = cv2.remap(mask, x, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(picture, np.uint8), _whole(eyes)


def _glasses(image: RGB, mask: Mask, figure: float, rng: Rng) -> Pair:
    """Draw frames around the eyes; `figure` is the tint of the lenses, 0 clear to 1 black."""
    boxes = sorted(eye_boxes(mask))
    if not boxes:
        return image, mask
    fix, scale = 4, 16
    apart = boxes[-1][0] - boxes[0][0] if len(boxes) == 2 else 2 * boxes[0][2]
    half = np.array([0.42, 0.3 + 0.08 * rng.random()]) * max(apart, 1.2 * boxes[0][2])
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    round_ = rng.uniform(0.5, 1)
    ring = np.stack([np.sign(f(t)) * np.abs(f(t)) ** round_ for f in (np.cos, np.sin)], axis=1)
    rings = [((ring * half + (cx, cy + 0.15 * half[1])) * scale).astype(np.int32)
             for cx, cy, *_ in boxes]  # fmt: skip
    lens, rim = np.zeros_like(mask), np.zeros_like(mask)
    cv2.fillPoly(lens, rings, 255, cv2.LINE_AA, fix)
    thick = max(1, round(mask.shape[0] * rng.uniform(0.006, 0.016)))
    cv2.polylines(rim, rings, True, 255, thick, cv2.LINE_AA, fix)
    if len(boxes) == 2:
        ends = [(boxes[0][0] + half[0], boxes[0][1]), (boxes[1][0] - half[0], boxes[1][1])]
        cv2.polylines(rim, [(np.array(ends) * scale).astype(np.int32)], False, 255, thick,
                      cv2.LINE_AA, fix)  # fmt: skip
    tint = lens[..., None] / 255.0 * figure
    drawn = image * (1 - tint) + tint * np.array([30, 26, 24])
    yy, xx = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]] / mask.shape[0]
    glare = np.clip(np.sin(40 * xx + 25 * yy + rng.uniform(0, 6)) - 0.8, 0, 1) * lens / 255.0
    drawn += glare[..., None] * (240 - drawn)
    frame = rim[..., None] / 255.0
    return _levels(drawn * (1 - frame) + frame * rng.uniform(10, 90, 3)), mask


def _hidden(image: RGB, mask: Mask, figure: float, rng: Rng) -> Pair:
    """Lay a strand or a hand over one eye, from its side; `figure` is the share of its width."""
    boxes = sorted(eye_boxes(mask))
    if not boxes:
        return image, mask
    first = bool(rng.random() < 0.5)
    cx, cy, w, h = boxes[0] if first else boxes[-1]
    outward = -1 if first else 1
    edge = cx + outward * (w / 2 + 1) - outward * figure * (w + 2)
    far = edge + outward * 2.4 * w
    lean = rng.uniform(-0.6, 0.6)
    top, bottom = cy - 3.0 * w, cy + 2.0 * w
    corners = [
        (side + lean * (row - cy), row)
        for side, row in ((edge, top), (far, top), (far, bottom), (edge, bottom))
    ]
    cover = np.zeros_like(mask)
    cv2.fillPoly(cover, [(np.array(corners) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    share = cover[..., None] / 255.0
    # Skin of this face, from below the eye, or the colour of its hair, from the top of the picture.
    row = min(mask.shape[0] - 1, int(cy + 2 * h + 0.6 * w))
    skin = image[row, min(mask.shape[1] - 1, max(0, int(cx)))]
    hair = image[: mask.shape[0] // 8].reshape(-1, 3).mean(axis=0)
    base = skin if rng.random() < 0.5 else hair
    streaks = cv2.GaussianBlur(rng.standard_normal(image.shape[:2]), (0, 0), 1.0, sigmaY=6.0)
    laid = base + 60 * streaks[..., None]
    return _levels(image * (1 - share) + share * laid), np.where(cover > 127, np.uint8(0), mask)


DIFFICULTIES: tuple[Difficulty, ...] = (
    Difficulty("smaller", "times", (0.8, 0.65, 0.5), _scale),
    Difficulty("larger", "times", (1.2, 1.4, 1.7), _scale),
    Difficulty("off centre", "of the side", (0.1, 0.2, 0.3), _shift),
    Difficulty("roll", "degrees", (10, 20, 30), _roll),
    Difficulty("turned head", "of the width", (0.85, 0.7, 0.55), _profile),
    Difficulty("closing lids", "of the opening", (0.75, 0.55, 0.35), _squint),
    Difficulty("one eye hidden", "of it", (0.35, 0.7, 1.0), _hidden),
    Difficulty("glasses", "tint", (0.0, 0.3, 0.6), _glasses),
    Difficulty("grey", "less colour", (0.5, 0.8, 1.0), _grey),
    Difficulty("dark", "of the light", (0.3, 0.1, 0.03), _dark),
    Difficulty("blur", "pixels", (1.0, 1.5, 2.5), _blur),
    Difficulty("noise", "levels", (6, 12, 24), _noise),
    Difficulty("compression", "JPEG quality", (40, 20, 10), _jpeg),
)


def without_eyes(image: RGB, mask: Mask, kind: str) -> RGB | None:
    """Make a picture that shows no eye from one that shows some; None if there is no room.

    "painted over" replaces the eyes by the skin around them (Telea, 2004); "mouth and chin" and
    "hair and forehead" are what is below and above the eyes, enlarged to a whole picture.
    """
    boxes = eye_boxes(mask)
    if not boxes:
        return image
    size = mask.shape[0]
    if kind == "painted over":
        reach = max(2, round(0.35 * max(w for _, _, w, _ in boxes)))
        wide = cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        return np.asarray(cv2.inpaint(image, wide, 3, cv2.INPAINT_TELEA), np.uint8)
    rows = np.flatnonzero(mask.any(axis=1))
    margin = round(0.04 * size)
    below, above = (rows[-1] + margin, size), (0, rows[0] - margin)
    top, bottom = below if kind == "mouth and chin" else above
    side = bottom - top
    if side < size // 5:
        return None
    left = (size - side) // 2
    part = image[top:bottom, left : left + side]
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)

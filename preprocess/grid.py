"""Picture grids: people look rather than read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from preprocess.files import atomic_file
from preprocess.image import RGB

GREEN = (64, 255, 96)
RED = (255, 72, 72)

_GAP = 4
_CAPTION = 14
_PAPER = 24


def outline(rgb: RGB, mask: npt.NDArray[np.generic], colour: tuple[int, int, int] = GREEN) -> RGB:
    """Draw the outlines of a mask (H x W, on where above zero) over a picture."""
    on = (np.asarray(mask) > 0).astype(np.uint8)
    contours, _ = cv2.findContours(on, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(rgb.shape[:2]) / 512))
    drawn = cv2.drawContours(rgb.copy(), contours, -1, colour, thickness, cv2.LINE_AA)
    return np.asarray(drawn, np.uint8)


def tint(
    rgb: RGB,
    mask: npt.NDArray[np.generic],
    colour: tuple[int, int, int] = GREEN,
    strength: float = 0.45,
) -> RGB:
    """Lay a colour over the masked pixels of a picture."""
    on = np.asarray(mask) > 0
    mixed = rgb.copy()
    mixed[on] = (rgb[on] * (1 - strength) + np.array(colour) * strength).astype(np.uint8)
    return mixed


def grey_to_rgb(grey: npt.NDArray[np.uint8]) -> RGB:
    """Repeat a grey picture over three channels."""
    return np.repeat(grey[..., None], 3, axis=2)


def close_up(mask: npt.NDArray[np.uint8], *planes: RGB, times: int = 4) -> list[RGB]:
    """Cut the band around what a mask marks out of pictures of its size, and enlarge it.

    The band has half the width and a quarter of the height; it is the middle one if nothing is
    marked.
    """
    size = mask.shape[0]
    rows, columns = np.nonzero(mask)
    y, x = (rows.mean(), columns.mean()) if len(rows) else (size / 2, size / 2)
    height, width = size // 4, size // 2
    top = int(np.clip(y - height / 2, 0, size - height))
    left = int(np.clip(x - width / 2, 0, size - width))
    box = slice(top, top + height), slice(left, left + width)
    return [plane[box].repeat(times, axis=0).repeat(times, axis=1) for plane in planes]


def grid(pictures: Sequence[RGB], columns: int, captions: Sequence[str] = ()) -> RGB:
    """Put pictures of one size into rows of `columns`, each with a line of text above."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    head = _CAPTION if captions else 0
    shape = (
        rows * (height + head + _GAP) + _GAP,
        min(columns, len(pictures)) * (width + _GAP) + _GAP,
        3,
    )
    sheet = np.full(shape, _PAPER, np.uint8)
    corners = []
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        y, x = _GAP + row * (height + head + _GAP), _GAP + column * (width + _GAP)
        sheet[y + head : y + head + height, x : x + width] = picture
        corners.append((x, y))
    if not captions:
        return sheet
    page = Image.fromarray(sheet)
    pen = ImageDraw.Draw(page)
    for corner, caption in zip(corners, captions, strict=True):
        pen.text(corner, caption, fill=(235, 235, 235))
    return np.array(page)


def save_png(rgb: RGB | npt.NDArray[np.uint8], path: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic_file(path) as file:
        Image.fromarray(rgb).save(file, "PNG", compress_level=4)

"""Picture grids: people look rather than read."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from preprocess.files import atomic_file
from preprocess.image import RGB
from preprocess.storage import Place

GREEN = (64, 255, 96)
RED = (255, 72, 72)

_GAP = 4
_CAPTION = 14
_PAPER = 24
_TINT = 0.45


def outline(rgb: RGB, mask: npt.NDArray[np.generic], colour: tuple[int, int, int] = GREEN) -> RGB:
    """Draw the outlines of a mask (H x W, on where above zero) over a picture."""
    on = (np.asarray(mask) > 0).astype(np.uint8)
    contours, _ = cv2.findContours(on, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(rgb.shape[:2]) / 512))
    drawn = cv2.drawContours(rgb.copy(), contours, -1, colour, thickness, cv2.LINE_AA)
    return np.asarray(drawn, np.uint8)


def tint(rgb: RGB, mask: npt.NDArray[np.generic]) -> RGB:
    """Lay green over the masked pixels of a picture."""
    on = np.asarray(mask) > 0
    mixed = rgb.copy()
    mixed[on] = (rgb[on] * (1 - _TINT) + np.array(GREEN) * _TINT).astype(np.uint8)
    return mixed


def grey_to_rgb(grey: npt.NDArray[np.uint8]) -> RGB:
    """Repeat a grey picture over three channels."""
    return np.repeat(grey[..., None], 3, axis=2)


def close_up(mask: npt.NDArray[np.uint8], *planes: RGB) -> list[RGB]:
    """Cut the band around what a mask marks out of pictures of its size, four times enlarged.

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
    return [plane[box].repeat(4, axis=0).repeat(4, axis=1) for plane in planes]


def grid(pictures: Sequence[RGB], columns: int, captions: Sequence[str]) -> RGB:
    """Put pictures of one size into rows of `columns`, each with a line of text above."""
    height, width = pictures[0].shape[0] + _CAPTION + _GAP, pictures[0].shape[1] + _GAP
    rows, columns = -(-len(pictures) // columns), min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), (_PAPER,) * 3)
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        sheet.paste(Image.fromarray(picture), (x, y + _CAPTION))
        pen.text((x, y), caption, fill=(235, 235, 235))
    return np.array(sheet)


def save_png(rgb: RGB | npt.NDArray[np.uint8], path: Place) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic_file(path) as file:
        Image.fromarray(rgb).save(file, "PNG", compress_level=4)

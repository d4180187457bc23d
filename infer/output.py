"""What to write for a photograph: panel, overlay, mask, soft mask, cut-out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from preprocess.errors import InputError
from preprocess.files import atomic_file
from preprocess.grid import grey_to_rgb, outline, tint
from preprocess.image import RGB
from preprocess.mask import encode_label

# Panels are for looking; everything else is written at the photograph's own size.
TILE = 2048
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


class View(StrEnum):
    """What is drawn; the value is its name on the command line."""

    PANEL = "panel"  # photo | mask | overlay
    OVERLAY = "overlay"  # photo | overlay
    MASK = "mask"  # 0 and 255
    SOFT = "soft"  # probability, 0..255
    CUTOUT = "cutout"  # the photo, transparent but for the eyes

    @property
    def shows(self) -> str:
        """What is in the picture."""
        return {
            View.PANEL: "photo | mask | overlay",
            View.OVERLAY: "photo | overlay",
            View.MASK: "mask",
            View.SOFT: "probability",
            View.CUTOUT: "cut-out",
        }[self]

    @property
    def is_for_looking(self) -> bool:
        """Whether it may be smaller than the photograph, and lossy."""
        return self in {View.PANEL, View.OVERLAY}


def shrink(photo: RGB) -> RGB:
    """Scale a photograph down to the longest tile of a panel, where it is larger."""
    height, width = photo.shape[:2]
    scale = TILE / max(height, width)
    if scale >= 1:
        return photo
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)


def draw(
    view: View, photo: RGB | None, probability: npt.NDArray[np.float32], threshold: float
) -> npt.NDArray[np.uint8]:
    """Draw a view.

    Parameters
    ----------
    view
        What to draw.
    photo
        H x W x 3 uint8 RGB; None for mask and soft mask.
    probability
        H x W float32, 0..1.
    threshold
        Probability from which a pixel is an eye.

    Returns
    -------
    numpy.ndarray
        Mask or soft mask, H x W uint8; cut-out, H x W x 4 uint8 RGBA; or n tiles side by side,
        RGB uint8, with the longest side of a tile at most 2048 pixels.
    """
    if view is View.SOFT:
        return _to_levels(probability)
    grey = _mask(probability, threshold)
    if view is View.MASK or photo is None:
        return grey
    if view is View.CUTOUT:
        return np.dstack([photo, grey])
    photo = shrink(photo)
    if photo.shape[:2] != grey.shape:
        size = (photo.shape[1], photo.shape[0])
        smaller = cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
        grey = _mask(np.asarray(smaller, np.float32), threshold)
    tiles = [photo, outline(tint(photo, grey), grey)]
    if view is View.PANEL:
        tiles.insert(1, grey_to_rgb(grey))
    return np.hstack(tiles)


def _mask(probability: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.uint8]:
    """Return 255 where an eye is, else 0 (a sixth of the time of `np.where`)."""
    return (probability >= threshold).view(np.uint8) * np.uint8(255)


def _to_levels(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Scale 0..1 to 0..255, row by row: the photograph may have fifty megapixels."""
    levels = np.empty(probability.shape, np.uint8)
    for row, values in enumerate(probability):
        levels[row] = np.rint(values * 255)
    return levels


def check_suffix(path: Path, view: View) -> None:
    """Check before the work that a result can be written under this name.

    Raises
    ------
    InputError
        Where the ending names no format, or a lossy one for a mask or a cut-out.
    """
    suffix = path.suffix.lower()
    allowed = list(_FORMATS) if view.is_for_looking else [".png"]
    if suffix not in allowed:
        raise InputError(path, f"ends in {suffix!r}", f"Expected {', '.join(allowed)}")


def save(picture: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a picture in the format of its ending, whole or not at all."""
    options = {"quality": 95} if path.suffix.lower() != ".png" else {"compress_level": 4}
    with atomic_file(path) as file:
        if picture.ndim == 2:  # a mask: almost all of it is 0, a tenth of Pillow's time
            file.write(encode_label(picture))
            return
        Image.fromarray(picture).save(file, _FORMATS[path.suffix.lower()], **options)

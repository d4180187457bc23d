"""What to write for a photograph: panel, overlay or mask."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from preprocess.errors import InputError
from preprocess.grid import grey_to_rgb, outline, tint
from preprocess.image import RGB
from preprocess.shards import atomic_file

# Panels are for looking; a mask is always written at the photograph's own size.
TILE = 2048
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


class View(StrEnum):
    """What is drawn."""

    PANEL = "photo | mask | overlay"
    OVERLAY = "photo | overlay"
    MASK = "mask"

    @property
    def needs_photo(self) -> bool:
        """Whether the photograph itself is in the picture."""
        return self is not View.MASK


def shrink(photo: RGB) -> RGB:
    """Scale a photograph down to the longest tile of a panel, where it is larger."""
    height, width = photo.shape[:2]
    scale = TILE / max(height, width)
    if scale >= 1:
        return photo
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)


def draw(view: View, photo: RGB | None, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Draw a view.

    Parameters
    ----------
    view
        What to draw.
    photo
        H x W x 3 uint8 RGB; None for `View.MASK`.
    mask
        H x W bool.

    Returns
    -------
    numpy.ndarray
        The mask as H x W uint8 of 0 and 255, or n tiles side by side, H x n W x 3 uint8 RGB.
    """
    grey = mask.astype(np.uint8) * 255
    if view is View.MASK or photo is None:
        return grey
    tiles = [photo, outline(tint(photo, grey), grey)]
    if view is View.PANEL:
        tiles.insert(1, grey_to_rgb(grey))
    return np.hstack(tiles)


def check_suffix(path: Path, view: View) -> None:
    """Check before the work that a result can be written under this name.

    Raises
    ------
    InputError
        Where the ending names no format, or a lossy one for a mask.
    """
    suffix = path.suffix.lower()
    allowed = [".png"] if view is View.MASK else list(_FORMATS)
    if suffix not in allowed:
        raise InputError(path, f"ends in {suffix!r}", f"Expected {', '.join(allowed)}")


def save(picture: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a picture in the format of its ending, whole or not at all."""
    options = {"quality": 95} if path.suffix.lower() != ".png" else {"compress_level": 4}
    with atomic_file(path) as file:
        Image.fromarray(picture).save(file, _FORMATS[path.suffix.lower()], **options)

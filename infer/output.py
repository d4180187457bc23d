"""What comes out of a photograph: figures and, of its own size or for looking, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from infer.eyes import Eye, Face
from infer.frame import Box, Plane
from infer.record import SCHEMA, describe
from preprocess.errors import InputError
from preprocess.files import atomic_file
from preprocess.grid import grey_to_rgb, outline, tint
from preprocess.image import RGB
from preprocess.mask import encode_label

Grey = npt.NDArray[np.uint8]
_TILE = 1536  # longest side of a photo in what is for looking; the rest has the photo's own size
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Faces whose eyes take less than this share of the width are shown enlarged, too; so many of them.
_SMALL, _ENLARGED = 0.3, 6
# One filter for all rows: half the time of trying five, at the same size.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
_EDGE = 0.25  # of the probability, to either side of the threshold: from clear to opaque


class View(StrEnum):
    """What is drawn; the value is its name on the command line."""

    PANEL = "panel"  # photo | mask | overlay, and below them faces enlarged
    OVERLAY = "overlay"  # photo | overlay
    MASK = "mask"  # 0 and 255
    SOFT = "soft"  # probability, 0..255
    CUTOUT = "cutout"  # the photo, transparent but for the eyes
    EYES = "eyes"  # a cut-out for each eye, of its own size

    @property
    def is_for_looking(self) -> bool:
        """Whether it may be smaller than the photograph, and lossy."""
        return self in {View.PANEL, View.OVERLAY}


@dataclass(frozen=True)
class Prediction:
    """Where the eyes of one photograph are."""

    photo: RGB | None  # H x W x 3 uint8; None if only a small version of it was decoded
    faces: tuple[Face, ...]  # the largest first
    probability: Plane  # H x W float32, 0..1, at the photograph's own size
    threshold: float  # probability from which a pixel is an eye
    warning: str = ""  # what the caller should know, such as that no face was found

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """H x W bool, True where an eye is."""
        return self.probability >= self.threshold

    @property
    def eyes(self) -> tuple[Eye, ...]:
        """The eyes of all faces."""
        return tuple(eye for face in self.faces for eye in face.eyes)

    def draw(self, view: View | str) -> Grey:
        """Draw a view.

        Returns
        -------
        numpy.ndarray
            Mask or soft mask, H x W uint8; cut-out, H x W x 4 uint8 RGBA; or n tiles side by side,
            RGB uint8, with the longest side of a tile at most 1536 pixels.
        """
        view = View(view)
        if view is View.SOFT:
            return np.asarray(cv2.convertScaleAbs(self.probability, alpha=255), np.uint8)
        if view is View.MASK or self.photo is None:
            return self._grey(self.probability)
        if not view.is_for_looking:
            return self._cutout(self.photo)
        return self._tiles(self.photo, with_mask=view is View.PANEL)

    def cutout(self) -> Grey:
        """Return the eyes alone: H x W x 4 RGBA, soft at the edges, 0 everywhere else."""
        return self.draw(View.CUTOUT)

    def overlay(self) -> RGB:
        """Return the photograph beside itself with the eyes tinted and outlined."""
        return self.draw(View.OVERLAY)

    def save(self, path: str | PathLike[str], view: View | str = View.PANEL) -> None:
        """Write a view as a picture, in the format of the file's ending.

        Of `View.EYES`, each eye is a file of its own: ``{name}_{face}_{side}.png``.

        Raises
        ------
        InputError
            If the ending names no format, or a lossy one for a mask or a cut-out.
        """
        path, view = Path(path), View(view)
        check_suffix(path, view)
        picture = self.draw(view)
        if view is not View.EYES:
            _write(picture, path)
            return
        for number, face in enumerate(self.faces, start=1):
            for eye in face.eyes:
                x, y, width, height = (round(value) for value in eye.box)
                room = max(2, round(0.15 * width))
                rows = np.s_[max(0, y - room) : y + height + room]
                part = picture[rows, max(0, x - room) : x + width + room]
                name = f"{path.stem}_{number}_{eye.side}{path.suffix}"
                _write(np.ascontiguousarray(part), path.with_name(name))

    def to_dict(self, photo: str = "") -> dict[str, Any]:
        """Return the figures as plain numbers, lists and dictionaries (docs/json.md)."""
        height, width = self.probability.shape
        return {
            "schema": SCHEMA, "photo": photo, "width": width, "height": height,
            "threshold": self.threshold, "warning": self.warning,
            "faces": [describe(face) for face in self.faces],
        }  # fmt: skip

    def _grey(self, probability: Plane) -> Grey:
        """Return 255 where an eye is, else 0 (a sixth of the time of `np.where`)."""
        return (probability >= self.threshold).view(np.uint8) * np.uint8(255)

    def _cutout(self, photo: RGB) -> Grey:
        """Return the photo as RGBA: soft at the edge of an eye, all 0 away from it."""
        picture = np.zeros((*photo.shape[:2], 4), np.uint8)
        near = self.probability > self.threshold - _EDGE
        x, y, width, height = cv2.boundingRect(near.view(np.uint8))
        part = np.s_[y : y + height, x : x + width]
        alpha = np.clip(0.5 + (self.probability[part] - self.threshold) / (2 * _EDGE), 0, 1)
        picture[part][..., 3] = np.rint(255 * alpha)
        picture[part][..., :3] = photo[part] * (picture[part][..., 3:] > 0)
        return picture

    def _tiles(self, photo: RGB, with_mask: bool) -> RGB:
        """Draw photo, mask if wanted, and overlay side by side, and small faces below a mask."""
        small, seen = photo, self.probability
        scale = _TILE / max(photo.shape[:2])
        if scale < 1:
            size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
            small, seen = (cv2.resize(whole, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
                           for whole in (photo, seen))  # fmt: skip
        grey = self._grey(seen)
        overlay = outline(tint(small, grey), grey)
        if not with_mask:
            return np.hstack([small, overlay])
        panel = np.hstack([small, grey_to_rgb(grey), overlay])
        boxes = [_around(face) for face in self.faces if face.eyes][:_ENLARGED]
        if not boxes or max(box[2] for box in boxes) > _SMALL * photo.shape[1]:
            return panel
        return np.vstack([panel, self._enlarged(photo, boxes, panel.shape[1])])

    def _enlarged(self, photo: RGB, boxes: list[Box], width: int) -> RGB:
        """Draw a row of boxes of the photo, enlarged, with the outlines of the eyes."""
        wide = width // max(3, len(boxes))
        high = wide // 2
        row = np.zeros((high, width, 3), np.uint8)
        for number, (x, y, across, down) in enumerate(boxes):
            factor = wide / (1.4 * max(across, 2 * down))
            shift = (wide / 2 - factor * (x + across / 2), high / 2 - factor * (y + down / 2))
            matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
            rule = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
            near = cv2.warpAffine(photo, matrix, (wide, high), flags=rule)
            marked = self._grey(np.asarray(cv2.warpAffine(self.probability, matrix, (wide, high))))
            row[:, number * wide : (number + 1) * wide] = outline(np.asarray(near), marked)
        return row


def _around(face: Face) -> Box:
    """Return the box around all eyes of a face."""
    left, top = (min(eye.box[axis] for eye in face.eyes) for axis in (0, 1))
    right, bottom = (max(eye.box[n] + eye.box[n + 2] for eye in face.eyes) for n in (0, 1))
    return left, top, right - left, bottom - top


def check_suffix(path: Path, view: View) -> None:
    """Raise an `InputError` if a view cannot be written under a name with this ending."""
    suffix = path.suffix.lower()
    allowed = list(_FORMATS) if view.is_for_looking else [".png"]
    if suffix not in allowed:
        raise InputError(path, f"ends in {suffix!r}", f"Expected {', '.join(allowed)}")


def _write(picture: Grey, path: Path) -> None:
    """Write a picture in the format of its file's ending, whole or not at all."""
    kind = _FORMATS[path.suffix.lower()]
    with atomic_file(path, sync=False) as file:
        if kind != "PNG":
            Image.fromarray(picture).save(file, kind, quality=95)
        elif picture.ndim == 2:  # a mask: almost all of it is 0, a tenth of Pillow's time
            file.write(encode_label(picture))
        else:
            order = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
            data = cv2.imencode(".png", cv2.cvtColor(picture, order), _PNG)[1]
            file.write(data.tobytes())

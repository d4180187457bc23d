"""Encoded photographs to RGB squares, and the geometry that leads back.

One rule for packing, for the portable loader and for inference, so that a network sees the same
pixels everywhere: JPEGs are decoded by libjpeg-turbo at the DCT scale that gives the wanted size
or, if none does, at the smallest that still holds twice of it; the rest is an area average
(every source pixel counts once), the aspect ratio stays, and the short side is filled by repeating
the border, as augmentation does.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from preprocess.errors import DecodeError

RGB = npt.NDArray[np.uint8]

# Eighths at which libjpeg-turbo scales with vector instructions. Straight to the wanted size, the
# result is within 46 dB of a full decode with Lanczos, as close as by way of twice the size (the
# two are within 53 dB of each other), and closer than the packed JPEG (39.5 dB at quality 95).
_EXACT_EIGHTHS = (1, 2, 4)
_OVERSAMPLE = 2  # how much larger than the target another DCT-scaled decode must be
_EXIF_ORIENTATION = 0x0112
_EXIF_SCAN_BYTES = 1 << 16

# What Pillow's readers raise on damaged files (RuntimeError: those of AVIF and DDS).
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, OverflowError, RuntimeError)

# EXIF orientations (CIPA DC-008, 4.6.4): the steps over rows and columns; from 5 on, these swap.
_STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}


@dataclass(frozen=True)
class Geometry:
    """Where a photograph lies in the square that it was fitted into (all in pixels)."""

    source_height: int
    source_width: int
    size: int
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def fit(cls, source_height: int, source_width: int, size: int) -> Geometry:
        """Centre a source of any size in a `size` x `size` square, aspect ratio kept."""
        scale = size / max(source_height, source_width)
        height = min(size, max(1, round(source_height * scale)))
        width = min(size, max(1, round(source_width * scale)))
        return cls(
            source_height, source_width, size, (size - height) // 2, (size - width) // 2,
            height, width,
        )  # fmt: skip

    def restore(
        self, square: npt.NDArray[np.float32], shape: tuple[int, int] | None = None
    ) -> npt.NDArray[np.float32]:
        """Bring a `size` x `size` map back to the source's height and width, or to `shape`."""
        inner = square[self.top : self.top + self.height, self.left : self.left + self.width]
        height, width = shape or (self.source_height, self.source_width)
        resized = cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)

    def resize(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Bring a picture to `height` x `width`: by area if it shrinks, else linearly."""
        height, width = picture.shape[:2]
        if (height, width) == (self.height, self.width):
            return picture
        shrinks = height >= self.height and width >= self.width
        rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = cv2.resize(picture, (self.width, self.height), interpolation=rule)
        return np.asarray(resized, np.uint8)

    def place(self, fitted: npt.NDArray[np.uint8], border: int) -> npt.NDArray[np.uint8]:
        """Fill a `height` x `width` array up to the square, with a cv2 border mode."""
        if self.height == self.width:
            return fitted
        below = self.size - self.height - self.top
        right = self.size - self.width - self.left
        square = cv2.copyMakeBorder(fitted, self.top, below, self.left, right, border)
        return np.asarray(square, np.uint8)


def fit(rgb: RGB, size: int, geometry: Geometry | None = None) -> tuple[RGB, Geometry]:
    """Resize and pad a picture, H x W x 3 uint8, to a square of `size`; return where it lies too.

    `geometry` says where if `rgb` is a reduced decode of a larger source.
    """
    height, width = rgb.shape[:2]
    geometry = geometry or Geometry.fit(height, width, size)
    return geometry.place(geometry.resize(rgb), cv2.BORDER_REPLICATE), geometry


def decode_fitted(data: bytes, size: int, name: str = "image") -> tuple[RGB, Geometry]:
    """Decode an encoded photograph straight into a `size` square: the rule of this module.

    A `DecodeError` names what is no picture.
    """
    rgb, shape = _decode(data, name, size)
    return fit(rgb, size, Geometry.fit(*shape, size))


def decode_rgb(data: bytes, name: str = "image") -> RGB:
    """Decode an encoded photograph at its own size and orientation to H x W x 3 uint8 RGB.

    Any format that Pillow reads: grey, CMYK, palette and 16-bit pictures are converted, alpha is
    laid over white, EXIF orientation is applied. A `DecodeError` names what is no picture.
    """
    return _decode(data, name, 0)[0]


def _decode(data: bytes, name: str, size: int) -> tuple[RGB, tuple[int, int]]:
    """Return RGB to be fitted into a `size` square (0: at its own size), and the full H, W."""
    try:
        return _decode_jpeg(data, size)
    except ValueError:
        pass  # no JPEG, CMYK, arithmetic coding, stray bytes: Pillow reads more, and judges
    rgb = read_with_pillow(data, name, "an image", from_pillow)
    return rgb, (rgb.shape[0], rgb.shape[1])


def _decode_jpeg(data: bytes, size: int) -> tuple[RGB, tuple[int, int]]:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    exif = data.find(b"Exif\0\0", 0, _EXIF_SCAN_BYTES)
    orientation = 1 if exif < 0 else _orientation(data[exif : exif + _EXIF_SCAN_BYTES])
    least_height, least_width = _least_sides(height, width, size)
    rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=least_height, min_width=least_width)
    if orientation in _STEPS:
        down, right = _STEPS[orientation]
        rgb = rgb[::down, ::right]
        if orientation >= 5:
            rgb, height, width = rgb.swapaxes(0, 1), width, height
    return np.ascontiguousarray(rgb), (height, width)


def _least_sides(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width that a decode to be fitted into a `size` square must have."""
    if not size:
        return height, width
    goal = Geometry.fit(height, width, size)
    for eighths in _EXACT_EIGHTHS:
        # libjpeg rounds up.
        if (-(-height * eighths // 8), -(-width * eighths // 8)) == (goal.height, goal.width):
            return goal.height, goal.width
    scale = min(1.0, _OVERSAMPLE * size / max(height, width))
    return int(np.ceil(height * scale)), int(np.ceil(width * scale))


def _orientation(block: bytes) -> int:
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(block)
            return int(exif.get(_EXIF_ORIENTATION, 1))
    except (*PILLOW_ERRORS, struct.error):
        return 1  # a damaged EXIF block says nothing about the pixels


def read_with_pillow(
    data: bytes, name: str, kind: str, convert: Callable[[Image.Image], RGB]
) -> RGB:
    """Open a picture of any format and convert it; a `DecodeError` names it if that fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on size and metadata
            with Image.open(io.BytesIO(data)) as opened:
                return convert(opened)
    except Image.DecompressionBombError as error:
        raise DecodeError(name, str(error), "Scale the picture down first") from None
    except PILLOW_ERRORS as error:
        # Pillow's own words name a memory address, which differs in every run.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no known image format" if unknown else str(error)
        problem = f"cannot be decoded as {kind} ({len(data)} bytes: {reason})"
        remedy = "Give a JPEG, PNG, WebP or other file that Pillow reads"
        raise DecodeError(name, problem, remedy) from None


def from_pillow(picture: Image.Image) -> RGB:
    """Convert a picture of any mode to H x W x 3 uint8 RGB, upright, alpha laid over white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        return np.repeat(_grey_to_8_bit(np.asarray(picture))[..., None], 3, axis=2)
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        picture = Image.alpha_composite(paper, rgba)
    return np.array(picture.convert("RGB"))


def _grey_to_8_bit(grey: npt.NDArray[np.generic]) -> RGB:
    """Bring 16-bit, 32-bit or float grey to 0..255: by its type's range if that is known."""
    values = grey.astype(np.float32)
    top = float(values.max(initial=0.0))
    if grey.dtype.kind == "f":
        full = 1.0 if top <= 1.0 else 255.0
    else:
        full = 255.0 if top <= 255.0 and grey.dtype.itemsize > 2 else 65535.0
    return np.asarray(np.clip(np.rint(values * (255.0 / full)), 0, 255), np.uint8)

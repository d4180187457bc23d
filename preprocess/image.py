"""Encoded photographs to RGB squares, and the geometry that leads back.

One rule for packing, for the portable loader and for inference, so that a network sees the same
pixels everywhere: JPEGs are decoded by libjpeg-turbo at the DCT scale that gives the wanted size
or, where none does, at the smallest that still holds twice of it; the rest is an area average
(every source pixel counts once), the aspect ratio stays, and the short side is filled by repeating
the border, as augmentation does.
"""

from __future__ import annotations

import io
import struct
import warnings
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

# What each EXIF orientation (CIPA DC-008, 4.6.4) does to an H x W x 3 array.
_ORIENT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


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

    def place(self, fitted: npt.NDArray[np.uint8], border: int) -> npt.NDArray[np.uint8]:
        """Fill a `height` x `width` array up to the square, with a cv2 border mode."""
        below = self.size - self.height - self.top
        right = self.size - self.width - self.left
        if not (self.top or below or self.left or right):
            return fitted
        square = cv2.copyMakeBorder(fitted, self.top, below, self.left, right, border)
        return np.asarray(square, np.uint8)


def fit(rgb: RGB, size: int, geometry: Geometry | None = None) -> tuple[RGB, Geometry]:
    """Resize and pad a picture to a square.

    Parameters
    ----------
    rgb
        H x W x 3, uint8, RGB.
    size
        Side of the square in pixels.
    geometry
        Placement to use where `rgb` is a reduced decode of a larger source.

    Returns
    -------
    square, geometry
        size x size x 3 uint8, and where the picture lies in it.
    """
    height, width = rgb.shape[:2]
    geometry = geometry or Geometry.fit(height, width, size)
    if (height, width) != (geometry.height, geometry.width):
        shrinks = height >= geometry.height and width >= geometry.width
        rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = cv2.resize(rgb, (geometry.width, geometry.height), interpolation=rule)
        rgb = np.asarray(resized, np.uint8)
    return np.ascontiguousarray(geometry.place(rgb, cv2.BORDER_REPLICATE)), geometry


def decode_fitted(data: bytes, size: int, name: str = "image") -> tuple[RGB, Geometry]:
    """Decode an encoded photograph straight into a `size` square: the rule of this module.

    Raises
    ------
    DecodeError
        Naming `name`, where the bytes are no picture.
    """
    rgb, (height, width) = _decode(data, name, size)
    return fit(rgb, size, Geometry.fit(height, width, size))


def decode_rgb(data: bytes, name: str = "image") -> RGB:
    """Decode an encoded photograph at its own size and orientation to H x W x 3 uint8 RGB.

    Any format that Pillow reads: grey, CMYK, palette and 16-bit pictures are converted, alpha is
    laid over white, EXIF orientation is applied.

    Raises
    ------
    DecodeError
        Naming `name`, where the bytes are no picture.
    """
    return _decode(data, name, 0)[0]


def _decode(data: bytes, name: str, size: int) -> tuple[RGB, tuple[int, int]]:
    """Return RGB to be fitted into a `size` square (0: at its own size), and the full H, W."""
    if data[:2] == b"\xff\xd8":
        try:
            return _decode_jpeg(data, size)
        except ValueError:
            pass  # CMYK, arithmetic coding, stray bytes: Pillow reads more, and judges the rest
    rgb = _decode_with_pillow(data, name)
    return rgb, (rgb.shape[0], rgb.shape[1])


def _decode_jpeg(data: bytes, size: int) -> tuple[RGB, tuple[int, int]]:
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    if colorspace in {"CMYK", "YCCK"}:
        raise ValueError(colorspace)
    exif = data.find(b"Exif\0\0", 0, _EXIF_SCAN_BYTES)
    orientation = 1 if exif < 0 else _orientation(data[exif : exif + _EXIF_SCAN_BYTES])
    least = _least_sides(height, width, size)
    rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
    if orientation in _ORIENT:
        rgb = np.ascontiguousarray(_ORIENT[orientation](rgb))
        if orientation >= 5:
            height, width = width, height
    return rgb, (height, width)


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
    # Not by Image.open, which refuses photographs of more than 179 megapixels.
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(block)
            return int(exif.get(_EXIF_ORIENTATION, 1))
    except (*PILLOW_ERRORS, struct.error):
        return 1  # a damaged EXIF block says nothing about the pixels


def reason_of(error: Exception) -> str:
    """Say why Pillow gave up; its own words name a memory address, which differs in every run."""
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return str(error)


def _decode_with_pillow(data: bytes, name: str) -> RGB:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on size and metadata
            with Image.open(io.BytesIO(data)) as opened:
                return from_pillow(opened)
    except Image.DecompressionBombError as error:
        raise DecodeError(name, str(error), "Scale the picture down first") from None
    except PILLOW_ERRORS as error:
        problem = f"cannot be decoded as an image ({len(data)} bytes: {reason_of(error)})"
        raise DecodeError(
            name, problem, "Give a JPEG, PNG, WebP or other file Pillow reads"
        ) from None


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
    """Bring 16-bit, 32-bit or float grey to 0..255: by its type's range where that is known."""
    values = grey.astype(np.float32)
    top = float(values.max(initial=0.0))
    if grey.dtype.kind == "f":
        full = 1.0 if top <= 1.0 else 255.0
    else:
        full = 255.0 if top <= 255.0 and grey.dtype.itemsize > 2 else 65535.0
    return np.asarray(np.clip(np.rint(values * (255.0 / full)), 0, 255), np.uint8)

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
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from preprocess.errors import DecodeError
from preprocess.files import MAX_MEGAPIXELS

RGB = npt.NDArray[np.uint8]

# Eighths at which libjpeg-turbo scales with vector instructions. Straight to the wanted size, the
# result is within 46 dB of a full decode with Lanczos, as close as by way of twice the size (the
# two are within 53 dB of each other), and closer than the packed JPEG (39.5 dB at quality 95).
_EXACT_EIGHTHS = (1, 2, 4)
_OVERSAMPLE = 2  # how much larger than the target another DCT-scaled decode must be
_EXIF_ORIENTATION = 0x0112
_STRIP_PIXELS = 1 << 20

# What Pillow's readers raise on damaged files.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, RuntimeError, AttributeError,
    LookupError, EOFError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

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


def decode_fitted(
    data: bytes, size: int, name: str = "image", max_megapixels: float = MAX_MEGAPIXELS
) -> tuple[RGB, Geometry]:
    """Decode an encoded photograph straight into a `size` square: the rule of this module.

    A `DecodeError` names what is no picture, or claims more than `max_megapixels`.
    """
    rgb, shape = _decode(data, name, size, max_megapixels)
    return fit(rgb, size, Geometry.fit(*shape, size))


def decode_rgb(data: bytes, name: str = "image", max_megapixels: float = MAX_MEGAPIXELS) -> RGB:
    """Decode an encoded photograph at its own size and orientation to H x W x 3 uint8 RGB.

    Any format that Pillow reads: grey, CMYK, palette and 16-bit pictures are converted, alpha is
    laid over white, EXIF orientation is applied. A `DecodeError` names what is no picture, or
    claims more than `max_megapixels` (above 178, only JPEGs are read).
    """
    return _decode(data, name, 0, max_megapixels)[0]


def _decode(
    data: bytes, name: str, size: int, max_megapixels: float
) -> tuple[RGB, tuple[int, int]]:
    """Return RGB to be fitted into a `size` square (0: at its own size), and the full H, W."""
    try:
        return _decode_jpeg(data, name, size, max_megapixels)
    except DecodeError:
        raise
    except ValueError:
        pass  # no JPEG, CMYK, arithmetic coding, stray bytes: Pillow reads more, and judges
    rgb = read_with_pillow(data, name, "an image", from_pillow, max_megapixels)
    return rgb, (rgb.shape[0], rgb.shape[1])


def _decode_jpeg(
    data: bytes, name: str, size: int, max_megapixels: float
) -> tuple[RGB, tuple[int, int]]:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width, height, name, max_megapixels)
    least_height, least_width = _least_sides(height, width, size)
    rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=least_height, min_width=least_width)
    turn = _jpeg_orientation(data)
    return _turned(rgb, turn), (width, height) if turn >= 5 else (height, width)


def _check_size(width: int, height: int, name: str, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        problem = f"has {width} x {height} pixels, more than {max_megapixels:g} megapixels"
        raise DecodeError(name, problem, "Scale it down, or raise --max-megapixels")


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


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of an encoded picture, 1 (upright) to 8."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_orientation(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                return _valid(opened.getexif())
    except PILLOW_ERRORS:
        return 1


def _jpeg_orientation(data: bytes) -> int:
    """Read it from the EXIF segment, which lies before the picture; Pillow would open the file."""
    at, exif = 2, Image.Exif()
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, at)
            if marker == 0xFFFF:  # a byte of padding
                at += 1
            elif marker == 0xFFE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    exif.load(data[at + 4 : at + 2 + length])
                return _valid(exif)
            elif marker < 0xFFC0 or marker == 0xFFDA:  # damaged, or the picture begins
                return 1
            else:
                at += 2 + length
    except PILLOW_ERRORS:
        return 1  # a damaged EXIF block says nothing about the pixels


def _valid(exif: Image.Exif) -> int:
    value = exif.get(_EXIF_ORIENTATION, 1)
    return value if value in _STEPS else 1


def _turned(rgb: RGB, turn: int) -> RGB:
    if turn != 1:
        down, right = _STEPS[turn]
        rgb = rgb[::down, ::right]
    return np.ascontiguousarray(rgb.swapaxes(0, 1) if turn >= 5 else rgb)


def read_with_pillow(
    data: bytes,
    name: str,
    kind: str,
    convert: Callable[[Image.Image], RGB],
    max_megapixels: float,
) -> RGB:
    """Open a picture of any format and convert it; a `DecodeError` names it if that fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on size and metadata
            with Image.open(io.BytesIO(data)) as opened:
                _check_size(*opened.size, name, max_megapixels)
                return convert(opened)
    except DecodeError:
        raise
    except PILLOW_ERRORS as error:
        # Pillow's own words name a memory address, which differs in every run.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no known image format" if unknown else str(error) or type(error).__name__
        problem = f"cannot be decoded as {kind} ({len(data)} bytes: {reason})"
        remedy = "Give a JPEG, PNG, WebP or other file that Pillow reads"
        raise DecodeError(name, problem, remedy) from None


def from_pillow(picture: Image.Image) -> RGB:
    """Convert a picture of any mode to H x W x 3 uint8 RGB, upright, alpha laid over white."""
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    grey = picture.mode.startswith("I") or picture.mode == "F"
    brightest = max(np.asarray(strip).max() for _, strip in strips(picture)) if grey else 0
    for rows, strip in strips(picture):
        if grey:
            rgb[rows] = _grey_to_8_bit(np.asarray(strip), float(brightest))[..., None]
            continue
        if strip.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in strip.info:
            paper = Image.new("RGBA", strip.size, "white")
            strip = Image.alpha_composite(paper, strip.convert("RGBA"))
        rgb[rows] = np.asarray(strip.convert("RGB"))
    return upright(rgb, picture)


def upright(pixels: RGB, picture: Image.Image) -> RGB:
    """Turn the pixels of a loaded picture, H x W (x 3), as its EXIF says."""
    return _turned(pixels, _valid(picture.getexif()))


def strips(picture: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield a picture some rows at a time, so that copies of another mode stay small."""
    picture.load()
    step = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, step):
        bottom = min(top + step, picture.height)
        yield slice(top, bottom), picture.crop((0, top, picture.width, bottom))


def _grey_to_8_bit(grey: npt.NDArray[np.generic], top: float) -> RGB:
    """Bring 16-bit, 32-bit or float grey up to `top` to 0..255: by its type's range if known."""
    values = grey.astype(np.float32)
    if grey.dtype.kind == "f":
        full = 1.0 if top <= 1.0 else 255.0
    else:
        full = 255.0 if top <= 255.0 and grey.dtype.itemsize > 2 else 65535.0
    return np.asarray(np.clip(np.rint(values * (255.0 / full)), 0, 255), np.uint8)

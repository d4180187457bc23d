"""Eye masks: PNG bytes to a binary map, and the maps of both eyes to one label map.

The label map keeps left and right apart in grey levels that a person can see; DALI's decoder
drops palettes, so the levels are the pixel values themselves. Everything above zero is "eye".
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from zlib_ng import zlib_ng

from preprocess.errors import DecodeError
from preprocess.image import PILLOW_ERRORS, Geometry, reason_of
from preprocess.inflate import inflate

Mask = npt.NDArray[np.uint8]

# Grey level of each class in the packed label map. l_eye and r_eye are the subject's own sides;
# "eye" is an eye of unknown side, for data sets with one merged mask.
LABELS = {"background": 0, "eye": 85, "l_eye": 170, "r_eye": 255}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_RGB = 0, 2


def decode_mask(data: bytes, name: str = "mask") -> Mask:
    """Decode a mask of any size, mode and on-value to 0 or 255.

    A pixel is on where its brightest channel exceeds half of the brightest in the picture, so
    0/1, 0/225 and 0/255 masks, palettes included, all read alike. A picture without any value
    above zero is an empty mask.

    Returns
    -------
    numpy.ndarray
        H x W, uint8, values 0 and 255.

    Raises
    ------
    DecodeError
        Naming `name`, where the bytes are no picture.
    """
    mask = _decode_sparse_png(data)
    return _binary(_decode_with_pillow(data, name)) if mask is None else mask


def _binary(levels: Mask) -> Mask:
    half = int(levels.max(initial=0)) // 2
    return np.asarray(cv2.threshold(levels, half, 255, cv2.THRESH_BINARY)[1], np.uint8)


def _decode_sparse_png(data: bytes) -> Mask | None:
    """Decode an 8-bit grey or RGB PNG to a binary mask; None where it is not one.

    An eye covers a few percent of the rows; to inflate, unfilter, expand and convert the rest is
    what makes PNG masks dearer than the photograph's JPEG. Rows above the first filtered row that
    is not all zero are zero, because every PNG filter (PNG specification, 9.2) predicts zero from
    zeros; rows below the last one have filter "none" and no content. Only the rows between go
    through a PNG decoder, as a PNG of their own.
    """
    header = _png_header(data)
    if header is None:
        return None
    width, height, channels = header
    stream = _idat(data)
    if stream is None:
        return None
    try:
        filtered = inflate(stream, height * (1 + width * channels))
    except ValueError:
        return None
    rows = np.frombuffer(filtered, np.uint8).reshape(height, -1)
    used = np.flatnonzero(rows.any(axis=1))
    mask = np.zeros((height, width), np.uint8)
    if used.size:
        first, last = int(used[0]), int(used[-1]) + 1
        band = _encode_rows(rows[first:last].tobytes(), width, last - first, channels)
        decoded = cv2.imdecode(np.frombuffer(band, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            return None
        if decoded.ndim == 3:
            decoded = cv2.max(cv2.max(decoded[..., 0], decoded[..., 1]), decoded[..., 2])
        mask[first:last] = _binary(np.asarray(decoded, np.uint8))
    return mask


def _png_header(data: bytes) -> tuple[int, int, int] | None:
    """Width, height and channels of a plain PNG, else None.

    Plain means 8 bits, no interlacing, grey or RGB.
    """
    if data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        return None
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if depth != 8 or interlace or colour not in {_PNG_GREY, _PNG_RGB} or not (width and height):
        return None
    return width, height, 3 if colour == _PNG_RGB else 1


def _idat(data: bytes) -> bytes | None:
    """Join the compressed stream of a PNG; None where a chunk is cut off or damaged."""
    parts, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if kind == b"IDAT":
            (crc,) = struct.unpack(">I", data[end : end + 4].ljust(4, b"\0"))
            if zlib.crc32(data[at + 4 : end]) != crc:
                return None
            parts.append(data[at + 8 : end])
        elif kind == b"tRNS":
            return None
        elif kind == b"IEND":
            return b"".join(parts)
        at = end + 4
    return None


def _encode_rows(filtered: bytes, width: int, height: int, channels: int, level: int = 0) -> bytes:
    """Wrap filtered rows as a PNG, compressed at a zlib level (0: stored)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    colour = _PNG_RGB if channels == 3 else _PNG_GREY
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib_ng.compress(filtered, level)
    return _PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _decode_with_pillow(data: bytes, name: str) -> Mask:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on size and metadata
            with Image.open(io.BytesIO(data)) as picture:
                return _levels(picture)
    except Image.DecompressionBombError as error:
        raise DecodeError(name, str(error), "Scale the mask down first") from None
    except PILLOW_ERRORS as error:
        problem = f"cannot be decoded as a mask ({len(data)} bytes: {reason_of(error)})"
        raise DecodeError(name, problem, "Replace the file or leave the image out") from None


def _levels(picture: Image.Image) -> Mask:
    if picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        return np.asarray(rgba[..., :3].max(axis=2) * (rgba[..., 3] > 127), np.uint8)
    if picture.mode in {"1", "L"}:
        return np.asarray(picture.convert("L"))
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        return np.asarray(np.rint(255 * values / max(values.max(initial=0.0), 1e-9)), np.uint8)
    # Colour and palette: by the colours, never by palette indices or a grey conversion
    # (index 1 may be (225, 0, 0), which reads as 67 in grey).
    return np.asarray(np.asarray(picture.convert("RGB")).max(axis=2), np.uint8)


def fit_mask(mask: Mask, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Resize a binary mask by area into the place of its image, keeping its area.

    The threshold on each pixel's coverage is the one that leaves as many pixels on as the mask
    covered in total, so a lid gap thinner than a pixel neither vanishes nor swells. Among pixels
    of equal coverage, those with more covered neighbours win.

    Parameters
    ----------
    mask
        H x W, uint8, values 0 and 255, covering the same field of view as the image, at any size.
    geometry
        Placement of the image.

    Returns
    -------
    numpy.ndarray
        size x size, bool.
    """
    target = (geometry.width, geometry.height)
    if (mask.shape[1], mask.shape[0]) == target:
        return geometry.place(mask, cv2.BORDER_CONSTANT) > 0
    shrinks = mask.shape[1] >= target[0] and mask.shape[0] >= target[1]
    rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    coverage = np.asarray(cv2.resize(mask, target, interpolation=rule), np.uint8)
    kept = np.zeros(coverage.shape, np.uint8)
    x, y, width, height = cv2.boundingRect(coverage)
    if width:
        box = (slice(y, y + height), slice(x, x + width))
        levels = coverage[box].astype(np.int32)
        top, left = min(y, 1), min(x, 1)  # neighbours beyond the box count
        around = coverage[y - top : y + height + 1, x - left : x + width + 1]
        nearby = cv2.blur(around, (3, 3))[top : top + height, left : left + width]
        # Where even those are equal, a pattern spreads the choice along the line.
        spread = (5 * np.arange(width) + 3 * np.arange(height)[:, None]) % 8
        rank = ((levels * 256 + nearby) * 8 + spread).ravel()
        count = max(1, round(int(levels.sum()) / 255))
        brightest = np.zeros(rank.size, np.uint8)
        brightest[np.argsort(-rank, kind="stable")[:count]] = 1
        kept[box] = brightest.reshape(height, width)
    return geometry.place(kept, cv2.BORDER_CONSTANT) > 0


def label_map(masks: dict[str, Mask], geometry: Geometry) -> Mask:
    """Join the masks of the parts into one map of grey levels (`LABELS`), size x size uint8."""
    label = np.zeros((geometry.size, geometry.size), np.uint8)
    for part in sorted(masks):
        np.copyto(label, np.uint8(LABELS[part]), where=fit_mask(masks[part], geometry))
    return label


def eye_boxes(mask: Mask) -> list[tuple[float, float, float, float]]:
    """Return centre x, centre y, width and height of the one or two largest blobs, in pixels.

    (0, 0) is the centre of the corner pixel; the largest comes first.
    """
    left, top, wide, high = cv2.boundingRect(mask)
    if not wide:
        return []
    eyes = mask[top : top + high, left : left + wide]  # a few percent of the picture
    _, _, rows, centres = cv2.connectedComponentsWithStats((eyes > 0).astype(np.uint8))
    found = zip(rows[1:].tolist(), centres[1:].tolist(), strict=True)
    blobs = sorted(
        ((row[4], x + left, y + top, row[2], row[3]) for row, (x, y) in found), reverse=True
    )
    return [(x, y, float(width), float(height)) for _, x, y, width, height in blobs[:2]]


def eye_centres(label: Mask) -> list[list[float]]:
    """Return x and y in pixels of the one or two largest blobs of a label map, left to right.

    (0, 0) is the corner of the corner pixel.
    """
    return sorted([round(x + 0.5, 1), round(y + 0.5, 1)] for x, y, *_ in eye_boxes(label))


def encode_label(label: Mask) -> bytes:
    """Encode a label map as a grey 8-bit PNG (no row filters: they do not help on flat areas)."""
    rows = np.zeros((label.shape[0], 1 + label.shape[1]), np.uint8)
    rows[:, 1:] = label
    return _encode_rows(rows.tobytes(), label.shape[1], label.shape[0], 1, level=6)


def decode_label(data: bytes, name: str) -> Mask:
    """Decode a packed label map to its grey levels, size x size uint8; not to be written to.

    `encode_label` filters no row, so inflating is decoding; what others wrote goes through a PNG
    decoder, at five times the cost.

    Raises
    ------
    DecodeError
        Naming `name`, where the bytes are no grey PNG.
    """
    label = _decode_unfiltered_png(data)
    if label is not None:
        return label
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if decoded is None or decoded.ndim != 2:
        raise DecodeError(name, "holds a label map that is no grey PNG", "Pack again")
    return np.asarray(decoded, np.uint8)


def _decode_unfiltered_png(data: bytes) -> Mask | None:
    """View the inflated rows of an 8-bit grey PNG without row filters; None where it is not one."""
    header = _png_header(data)
    stream = _idat(data) if header and header[2] == 1 else None
    if header is None or stream is None:
        return None
    width, height, _ = header
    try:
        filtered = inflate(stream, height * (1 + width))
    except ValueError:
        return None
    rows = np.frombuffer(filtered, np.uint8).reshape(height, 1 + width)
    return None if rows[:, 0].any() else rows[:, 1:]

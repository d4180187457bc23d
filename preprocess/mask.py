"""Eye masks: PNG bytes to a binary map, and the maps of both eyes to one label map.

The label map keeps left and right apart in grey levels that a person can see; DALI's decoder
drops palettes, so the levels are the pixel values themselves. Everything above zero is "eye".
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from zlib_ng import zlib_ng

from preprocess.files import MAX_MEGAPIXELS
from preprocess.image import Geometry, read_with_pillow, strips, upright
from preprocess.inflate import inflate

Mask = npt.NDArray[np.uint8]

# Grey level of each class in the packed label map. l_eye and r_eye are the subject's own sides;
# "eye" is an eye of unknown side, for data sets with one merged mask.
LABELS = {"background": 0, "eye": 85, "l_eye": 170, "r_eye": 255}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bits, colour type, compression, filter and interlace method: of grey and of RGB.
_PLAIN = [8, 0, 0, 0, 0], [8, 2, 0, 0, 0]
_LARGE_BAND = 64 << 20
_LABEL_MEGAPIXELS = 4096**2 / 1e6  # the largest `PackSettings.size`


def decode_mask(data: bytes, name: str = "mask", max_megapixels: float = MAX_MEGAPIXELS) -> Mask:
    """Decode a mask of any size, mode and on-value to H x W uint8, 0 and 255.

    A pixel is on if its brightest channel exceeds half of the brightest in the picture, so
    0/1, 0/225 and 0/255 masks, palettes included, all read alike. A picture without any value
    above zero is an empty mask. EXIF orientation is applied. A `DecodeError` names what is no
    picture, or claims more than `max_megapixels`.
    """
    try:
        return _decode_sparse_png(data, max_megapixels)
    except ValueError:
        return _binary(read_with_pillow(data, name, "a mask", _levels, max_megapixels))


def _binary(levels: Mask) -> Mask:
    half = int(levels.max(initial=0)) // 2
    return np.asarray(cv2.threshold(levels, half, 255, cv2.THRESH_BINARY)[1], np.uint8)


def _brightest(colours: Mask) -> Mask:
    red, green, blue = (colours[..., channel] for channel in range(3))
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)


def _decode_sparse_png(data: bytes, max_megapixels: float) -> Mask:
    """Decode an 8-bit grey or RGB PNG to a binary mask, in a seventh of a PNG decoder's time.

    An eye covers a few percent of the rows. Rows above the first filtered row that is not all
    zero are zero, because every PNG filter (PNG specification, 9.2) predicts zero from zeros;
    rows below the last one have filter "none" and no content. Only the rows between go through a
    PNG decoder, as a PNG of their own.
    """
    rows, channels = _filtered_rows(data, max_megapixels)
    mask = np.zeros((len(rows), (rows.shape[1] - 1) // channels), np.uint8)
    used = np.flatnonzero(rows.any(axis=1))
    if used.size:
        band = slice(int(used[0]), int(used[-1]) + 1)
        if rows[band].size > _LARGE_BAND:
            raise ValueError("the band's copies would fill the memory")
        png = np.frombuffer(_encode_rows(rows[band], channels), np.uint8)
        decoded = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise ValueError("damaged rows")
        if channels == 3:
            decoded = _brightest(np.asarray(decoded, np.uint8))
        mask[band] = _binary(np.asarray(decoded, np.uint8))
    return mask


def _filtered_rows(data: bytes, max_megapixels: float) -> tuple[Mask, int]:
    """Return the rows of a plain PNG, each with its filter's byte in front, and the channels.

    Plain means 8 bits, grey or RGB, not interlaced, neither transparent nor turned by EXIF;
    ValueError if it is another, too large, or damaged.
    """
    try:
        stream, at, kind = [], 8, b""
        while kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", data, at)
            end = at + 8 + length
            if kind in {b"tRNS", b"eXIf"}:
                raise ValueError("transparent or turned")
            if kind in {b"IHDR", b"IDAT"}:
                if struct.unpack_from(">I", data, end) != (zlib.crc32(data[at + 4 : end]),):
                    raise ValueError(f"{kind!r} is damaged")
                stream.append(data[at + 8 : end])
            at = end + 4
        width, height, *plain = struct.unpack(">IIBBBBB", stream[0])
    except (struct.error, IndexError) as error:
        raise ValueError(str(error)) from None
    if data[:8] != _PNG_SIGNATURE or plain not in _PLAIN or not (width and height):
        raise ValueError("no plain PNG")
    if width * height > max_megapixels * 1e6:
        raise ValueError("too large")
    channels = 1 if plain == _PLAIN[0] else 3
    filtered = inflate(b"".join(stream[1:]), height * (1 + width * channels))
    return np.frombuffer(filtered, np.uint8).reshape(height, -1), channels


def _encode_rows(rows: Mask, channels: int, level: int = 0) -> bytes:
    """Wrap filtered rows as a PNG, compressed at a zlib level (0: stored)."""
    height, stride = rows.shape
    plain = _PLAIN[0] if channels == 1 else _PLAIN[1]
    chunks = (
        b"IHDR" + struct.pack(">IIBBBBB", (stride - 1) // channels, height, *plain),
        b"IDAT" + zlib_ng.compress(rows.tobytes(), level),
        b"IEND",
    )
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def _levels(picture: Image.Image) -> Mask:
    levels = np.empty((picture.height, picture.width), np.uint8)
    grey = picture.mode.startswith("I") or picture.mode == "F"
    brightest = max(np.asarray(strip).max() for _, strip in strips(picture)) if grey else 0
    for rows, strip in strips(picture):
        if grey:
            values = np.asarray(strip, np.float64)
            levels[rows] = np.clip(np.rint(255 * values / max(float(brightest), 1e-9)), 0, 255)
        elif strip.mode in {"RGBA", "LA", "PA"} or "transparency" in strip.info:
            rgba = np.asarray(strip.convert("RGBA"))
            levels[rows] = _brightest(rgba) * (rgba[..., 3] > 127)
        elif strip.mode in {"1", "L"}:
            levels[rows] = np.asarray(strip.convert("L"))
        else:
            # Colour and palette: by the colours, never by palette indices or a grey conversion
            # (index 1 may be (225, 0, 0), which reads as 67 in grey).
            levels[rows] = _brightest(np.asarray(strip.convert("RGB")))
    return upright(levels, picture)


def fit_mask(mask: Mask, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Resize a binary mask, 0 and 255, into the place of its image, size x size bool.

    The mask covers what the image does, at any size. It keeps its area: the threshold on each
    pixel's coverage is the one that leaves as many pixels on as the mask covered in total, so a
    lid gap thinner than a pixel neither vanishes nor swells. Among pixels of equal coverage, those
    with more covered neighbours win.
    """
    coverage = geometry.resize(mask)
    kept = np.zeros(coverage.shape, np.uint8)
    x, y, width, height = cv2.boundingRect(coverage)
    if width:
        box = (slice(y, y + height), slice(x, x + width))
        levels, nearby = coverage[box].astype(np.int32), cv2.blur(coverage, (3, 3))[box]
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
    return _encode_rows(rows, 1, level=6)


def decode_label(data: bytes, name: str) -> Mask:
    """Decode a packed label map to its grey levels, size x size uint8; not to be written to.

    `encode_label` filters no row, so inflating is decoding, in a tenth of a PNG decoder's time.
    What others wrote goes through that; a `DecodeError` names what is no grey picture.
    """
    with suppress(ValueError):
        rows, channels = _filtered_rows(data, _LABEL_MEGAPIXELS)
        if channels == 1 and not rows[:, 0].any():
            return rows[:, 1:]
    return read_with_pillow(data, name, "a label map", _grey, _LABEL_MEGAPIXELS)


def _grey(picture: Image.Image) -> Mask:
    if picture.mode != "L":
        raise ValueError(f"of mode {picture.mode}, expected grey")
    return np.asarray(picture)

"""One photograph and its masks to the bytes of a sample: JPEG, label map, and facts as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import simplejpeg

from preprocess.celebamask import EYES, RawSample
from preprocess.errors import DecodeError
from preprocess.files import MAX_MEGAPIXELS
from preprocess.image import Geometry, decode_fitted, orientation
from preprocess.manifest import EyeCount, PackSettings
from preprocess.mask import LABELS, Mask, decode_mask, encode_label, eye_centres, label_map
from preprocess.storage import Place


@dataclass(frozen=True)
class PackedSample:
    """The bytes of one sample, by extension; its eyes, and its masks that mark nothing."""

    parts: dict[str, bytes]
    eyes: EyeCount
    empty_masks: tuple[str, ...]


def pack_sample(
    source: Place,
    sample: RawSample,
    settings: PackSettings,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> PackedSample:
    """Read, fit and encode one sample.

    A `DecodeError` if one of its files cannot be decoded, or a mask does not fit the photograph.
    """
    data = sample.image.read(source)
    square, geometry = decode_fitted(data, settings.size, sample.image.name, max_megapixels)
    masks = {
        part: decode_mask(member.read(source), member.name, max_megapixels)
        for part, member in sample.masks.items()
    }
    seen = {part: mask for part, mask in masks.items() if cv2.countNonZero(mask)}
    turn = orientation(data) if seen else 1
    for part, mask in seen.items():
        _check_fit(sample.image.name, turn, geometry, sample.masks[part].name, mask)
    label = label_map(seen, geometry)
    meta = {
        "area": {part: int(np.count_nonzero(label == LABELS[part])) for part in sorted(seen)},
        "eyes": eye_centres(label),
        "geometry": asdict(geometry),
        "key": sample.key,
        "source": sample.image.name.rpartition("/")[2],
    }
    parts = {
        "jpg": simplejpeg.encode_jpeg(
            square, settings.quality, colorsubsampling=settings.subsampling
        ),
        "json": json.dumps(meta, sort_keys=True, separators=(",", ":")).encode(),
        "png": encode_label(label),
    }
    empty = tuple(sorted(sample.masks[part].name for part in masks.keys() - seen.keys()))
    return PackedSample(parts, _count_eyes(seen), empty if "eye" not in masks else ())


def _check_fit(image: str, turn: int, geometry: Geometry, name: str, mask: Mask) -> None:
    """Refuse a mask that would be stretched, or that may not be turned as its photograph is."""
    height, width = geometry.source_height, geometry.source_width
    if not _covers(mask, height, width):
        problem = f"is {mask.shape[1]} x {mask.shape[0]}, another shape than its photograph"
        raise DecodeError(name, f"{problem}, {width} x {height}", "Draw it on the whole photograph")
    if turn != 1 and _covers(mask, *((width, height) if turn >= 5 else (height, width))):
        problem = f"is turned by its EXIF orientation, {turn}; whether its mask is cannot be told"
        raise DecodeError(image, problem, "Save it upright")


def _covers(mask: Mask, height: int, width: int) -> bool:
    """Whether a mask has the aspect ratio of a picture, within a pixel or a hundredth."""
    rows, columns = mask.shape
    return bool(abs(rows - columns * height / width) <= max(1, rows / 100))


def _count_eyes(seen: dict[str, Mask]) -> EyeCount:
    if "eye" in seen:
        return EyeCount(merged=1)
    starts = [cv2.boundingRect(seen[eye])[0] for eye in EYES if eye in seen]
    if len(starts) == 2:
        left, right = starts
        return EyeCount(two=1, swapped=int(left < right))
    return EyeCount(one=len(starts), none=1 - len(starts))

"""The decode path's last steps: packed or fitted pixels to what the network takes.

Bytes become fitted RGB in `preprocess.image`, one rule for packing, the portable loader and
inference. From there on: ``(pixel - mean) / std`` in float32, stored channels-last. DALI's graph
(`train.dali_loader`) does the same to packed samples and is held to this by golden tests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from preprocess.image import decode_rgb
from preprocess.manifest import from_fields
from preprocess.mask import decode_label


@dataclass(frozen=True)
class InputSpec:
    """How the network wants its input; travels with the weights.

    Attributes
    ----------
    size
        Side of the square in pixels.
    mean, std
        Per channel R, G, B, in levels of 0..255 (ImageNet's).
    """

    size: int = 256
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for a checkpoint."""
        content = asdict(self)
        return content | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> InputSpec:
        """Inverse of `to_dict`; an unknown key fails."""
        pairs = {"mean": tuple(content["mean"]), "std": tuple(content["std"])}
        return from_fields(cls, content | pairs)


def normalise(squares: npt.NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """Turn RGB squares into network input.

    Parameters
    ----------
    squares
        N x size x size x 3, uint8, RGB.

    Returns
    -------
    torch.Tensor
        N x 3 x size x size, float32, in channels_last memory (a view: no copy).
    """
    pixels = np.empty(squares.shape, np.float32)
    for square, out in zip(squares, pixels, strict=True):
        normalise_into(out, square, spec)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def normalise_into(
    out: npt.NDArray[np.float32], picture: npt.NDArray[np.uint8], spec: InputSpec
) -> None:
    """Write one normalised H x W x 3 picture into contiguous memory of that shape.

    A row at a time: NumPy's loop over three channels alone takes fourteen times as long. Bytes
    become floats by a copy: a subtraction of mixed types takes half as long again as all three.
    """
    height, width, _ = picture.shape
    mean, scale = _row_of(spec.mean, spec.std, width)
    rows = out.reshape(height, 3 * width)
    np.copyto(rows, picture.reshape(height, 3 * width))
    rows -= mean
    rows *= scale


@cache
def _row_of(
    mean: tuple[float, ...], std: tuple[float, ...], width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and 1 / std, repeated for a row of pixels."""
    scale = 1 / np.asarray(std, np.float32)
    return np.tile(np.asarray(mean, np.float32), width), np.tile(scale, width)


def denormalise(images: torch.Tensor, spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Turn network input back into N x size x size x 3 uint8 RGB, for pictures to look at."""
    pixels = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    levels = pixels * np.asarray(spec.std, np.float32) + np.asarray(spec.mean, np.float32)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def binarise(masks: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Turn N x H x W masks of 0..255 into N x 1 x H x W float32 of 0 and 1."""
    return torch.from_numpy((masks >= 128).astype(np.float32)).unsqueeze(1)


def decode_sample(
    jpg: bytes, png: bytes, name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Decode a packed pair to H x W x 3 RGB and an H x W mask of 0 (no eye) and 255.

    Raises
    ------
    DecodeError
        Naming `name`, where one of them is no picture.
    """
    mask = label_to_mask(decode_label(png, name))
    return decode_rgb(jpg, name), mask


def label_to_mask(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn a label map into a mask of 0 (no eye) and 255."""
    return np.asarray(cv2.threshold(label, 0, 255, cv2.THRESH_BINARY)[1], np.uint8)

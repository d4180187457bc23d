"""The decode path's last steps: packed or fitted pixels to what the network takes.

Bytes become fitted RGB in `preprocess.image`, one rule for packing, the portable loader and
inference. From there on: ``(pixel - mean) / std`` in float32, stored channels-last. DALI's graph
(`train.dali_loader`) does the same to packed samples and is held to this by golden tests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
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
    count, height, width, _ = squares.shape
    pixels = np.empty(squares.shape, np.float32)
    if squares.size:
        rows = (count * height, width, 3)
        cv2.LUT(squares.reshape(rows), _levels(spec), dst=pixels.reshape(rows))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@lru_cache(maxsize=4)
def _levels(spec: InputSpec) -> npt.NDArray[np.float32]:
    """Return what becomes of each level, 1 x 256 x 3: looked up, it costs a third of computed."""
    scale = 1 / np.asarray(spec.std, np.float32)
    levels = (np.arange(256, dtype=np.float32)[:, None] - np.asarray(spec.mean, np.float32)) * scale
    return np.ascontiguousarray(levels[None], np.float32)


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
    label = decode_label(png, name)
    return decode_rgb(jpg, name), np.where(label > 0, np.uint8(255), np.uint8(0))

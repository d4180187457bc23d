"""Faces and eyes as figures: what `Predictor.predict` returns besides the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Side = Literal["right", "left"]
_LEAST_SHARE = 0.1  # of the largest blob of an eye: what is smaller is not counted to it


@dataclass(frozen=True)
class Eye:
    """One eye, in pixels of the photograph ((0, 0) is the corner of the corner pixel).

    Attributes
    ----------
    side
        The subject's own: "right" is on the viewer's left in an upright face.
    box
        x and y of the corner, width, height.
    centre
        Centre of mass, x and y.
    area
        Number of pixels.
    contour
        Outline of the largest part, x and y of its corners, clockwise.
    openness
        Height over width, both along the face's own axes, 0 closed.
    probability
        Mean over the eye's pixels, 0..1.
    """

    side: Side
    box: Box
    centre: Point
    area: int
    contour: tuple[Point, ...]
    openness: float
    probability: float


@dataclass(frozen=True)
class Face:
    """One face and its eyes.

    Attributes
    ----------
    box
        x and y of the corner, width, height, in pixels of the photograph.
    landmarks
        Five points: the subject's right eye, left eye, nose, right and left corner of the mouth;
        empty where the whole picture was taken for a face.
    score
        The finder's, 0..1; None where the whole picture was taken for a face.
    eyes
        The eyes that were segmented: two, one or none; the right one first.
    problem
        Why a face was not segmented; empty where it was.
    """

    box: Box
    landmarks: tuple[Point, ...]
    score: float | None
    eyes: tuple[Eye, ...]
    problem: str = ""


def measure_eyes(
    probability: npt.NDArray[np.float32],
    threshold: float,
    corner: tuple[int, int],
    matrix: npt.NDArray[np.float64],
    size: float,
) -> tuple[Eye, ...]:
    """Measure the eyes of one face.

    Parameters
    ----------
    probability
        Part of the photograph around the face, h x w float32, 0..1.
    threshold
        Probability from which a pixel is an eye.
    corner
        x and y of the part in the photograph.
    matrix
        2 x 3, pixels of the photograph to the upright face's square.
    size
        Side of that square: what is in its left half is the subject's right eye.
    """
    mask = (probability >= threshold).view(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return ()
    # From here on the part with eyes in it, a hundredth of most photographs.
    part = np.s_[top : top + height, left : left + width]
    probability, corner = probability[part], (corner[0] + left, corner[1] + top)
    _, labels, rows, centres = cv2.connectedComponentsWithStats(mask[part])
    places = (centres[1:] + 0.5 + corner) @ matrix[0, :2] + matrix[0, 2]
    eyes = []
    for side, chosen in (("right", places < size / 2), ("left", places >= size / 2)):
        numbers = np.flatnonzero(chosen) + 1
        if not len(numbers):
            continue
        areas = rows[numbers, cv2.CC_STAT_AREA]
        numbers = numbers[areas >= _LEAST_SHARE * areas.max()]
        eyes.append(_measure(side, labels, numbers, rows[numbers], probability, corner, matrix))  # type: ignore[arg-type]
    return tuple(eyes)


def _measure(
    side: Side,
    labels: npt.NDArray[np.int32],
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int32],
    probability: npt.NDArray[np.float32],
    corner: tuple[int, int],
    matrix: npt.NDArray[np.float64],
) -> Eye:
    left, top = (int(rows[:, stat].min()) for stat in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP))
    right, bottom = (
        int((rows[:, low] + rows[:, length]).max())
        for low, length in (
            (cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH), (cv2.CC_STAT_TOP, cv2.CC_STAT_HEIGHT)
        )
    )  # fmt: skip
    part = np.s_[top:bottom, left:right]
    corner = (corner[0] + left, corner[1] + top)
    chosen = np.zeros(int(labels.max()) + 1, np.bool_)
    chosen[numbers] = True
    on = chosen[labels[part]]
    y, x = np.nonzero(on)
    ends = np.stack([x + corner[0] + 0.5, y + corner[1] + 0.5], axis=-1) @ matrix[:, :2].T
    pixel = float(np.hypot(matrix[0, 0], matrix[0, 1]))  # its side, along the face's axes
    width, height = np.ptp(ends, axis=0) + pixel
    contours, _ = cv2.findContours(on.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(contours, key=cv2.contourArea)[:, 0]
    return Eye(
        side=side,
        box=(float(corner[0]), float(corner[1]), float(right - left), float(bottom - top)),
        centre=(float(x.mean() + corner[0] + 0.5), float(y.mean() + corner[1] + 0.5)),
        area=len(x),
        contour=tuple((float(a + corner[0]) + 0.5, float(b + corner[1]) + 0.5) for a, b in outline),
        openness=float(height / width),
        probability=float(probability[part][on].mean()),
    )  # fmt: skip

"""Frames: what the network sees of a photograph, and the way back.

A face is brought into the framing of the training pictures by CelebA-HQ's own rule (Karras et al.,
"Progressive Growing of GANs", ICLR 2018, appendix C): a turned square whose centre, side and
direction follow from the eyes and the corners of the mouth. Of that square the network sees the
band around the eyes. A picture without a face that was found is seen as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.image import RGB, Geometry, fit

Floats = npt.NDArray[np.float64]
Plane = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]  # x and y of the corner, width, height
# Distance of the eyes, in pixels of the photograph, under which an eye is some four pixels wide:
# there is nothing to segment.
LEAST_EYE_DISTANCE = 8.0
# The band around the eyes: width, height and the height of its middle, in shares of the square. The
# rest of the face changes F1 by 0.001 at most, and takes 0.72 of the time (docs/inference.md).
_WIDE, _HIGH, _MIDDLE = 0.75, 0.375, 0.4375
# CelebA-HQ's square: its side is the larger of so many distances of the eyes, and of eyes and
# mouth; its centre lies this share of the way from the eyes to the mouth.
_ACROSS, _DOWN, _BELOW = 4.0, 3.6, 0.1
_ROOM = 2.0  # of a face's longer side, for a second look at it
_EYE = 0.09  # of that square: usual width of an eye, the median less a tenth (docs/inference.md)
_LIKELY = 0.01  # a probability that is worth being brought back
# Eyes under so many pixels of the photograph are enlarged softly: the grid of its pixels, and what
# JPEG leaves along it, hide them from the network. Sigma in pixels of it (docs/inference.md).
_TINY, _SOFT = 9.0, 0.45
_SHARP = 0.7  # scale from which bilinear sampling leaves out no pixel worth mentioning


@dataclass(frozen=True)
class FaceFrame:
    """A turned rectangle of a photograph, around the eyes of a face.

    In pixels of photograph and rectangle (0, 0) is the corner of the corner pixel.
    """

    matrix: Floats  # 2 x 3, pixels of the photograph to pixels of the rectangle
    width: int  # the subject's right eye is in the left half
    height: int

    @classmethod
    def of_face(cls, landmarks: npt.NDArray[np.floating], size: int, stride: int) -> FaceFrame:
        """Frame the eyes of a face that would fill a square of side `size`.

        Landmarks are 5 x 2, x and y: eyes (viewer's left first), nose, corners of the mouth.
        Height and width are multiples of `stride`.
        """
        points = np.asarray(landmarks, np.float64)
        eyes, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
        across, down = points[1] - points[0], mouth - eyes
        side = max(_ACROSS * np.hypot(*across), _DOWN * np.hypot(*down), 1e-6)
        centre = eyes + _BELOW * down
        linear = size / side * turn(points)
        width, height = (max(1, round(share * size / stride)) * stride for share in (_WIDE, _HIGH))
        corner = (size / 2 - width / 2, _MIDDLE * size - height / 2)
        offset = size / 2 - linear @ centre - corner
        return cls(np.column_stack([linear, offset]), width, height)

    @classmethod
    def around(cls, box: Box, landmarks: npt.NDArray[np.floating], size: int) -> FaceFrame:
        """Frame a face upright: a square of side `size` with room for a box `_ROOM` times as wide.

        The box is x and y of the corner, width and height; landmarks as of `of_face`.
        """
        x, y, width, height = box
        linear = size / max(_ROOM * max(width, height), 1e-6) * turn(landmarks)
        offset = size / 2 - linear @ (x + width / 2, y + height / 2)
        return cls(np.column_stack([linear, offset]), size, size)

    @property
    def scale(self) -> float:
        """Pixels of the rectangle for one of the photograph."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[0, 1]))

    @property
    def eye(self) -> float:
        """Usual width of an eye, in pixels of the photograph."""
        return _EYE / _WIDE * self.width / self.scale

    def box(self, shape: tuple[int, ...], margin: float = 1.0) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom of the rectangle in a photograph of shape (H, W).

        Never empty: a rectangle outside the photograph gets the nearest pixels.
        """
        ends = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (self.width, self.height)
        corners = self.back(ends)
        limit = np.array([shape[1], shape[0]])
        low = np.clip(np.floor(corners.min(axis=0) - margin), 0, limit - 1).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0) + margin), low + 1, limit).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    @property
    def inner(self) -> Box:
        """Where the box is that `around` made room for, in pixels of the square."""
        side = self.width / _ROOM
        return (self.width - side) / 2, (self.height - side) / 2, side, side

    def back(self, points: npt.NDArray[np.floating]) -> Floats:
        """Bring points of the rectangle, N x 2, x and y, back into the photograph."""
        inverse = np.asarray(cv2.invertAffineTransform(self.matrix), np.float64)
        return points @ inverse[:, :2].T + inverse[:, 2]

    def sample(self, rgb: RGB) -> RGB:
        """Cut the rectangle out, H x W x 3 uint8 RGB, antialiased.

        Outside the photograph its border is repeated.
        """
        x, y, right, bottom = self.box(rgb.shape, margin=2 + 2 / self.scale)
        part, matrix = rgb[y:bottom, x:right], _moved(self.matrix, (x, y))
        if self.scale > _SHARP:  # nothing to be lost: one pixel of the photo makes one or more
            rule = cv2.INTER_CUBIC if self.scale > 1 else cv2.INTER_LINEAR
            drawn = _warped(part, matrix, (self.width, self.height), rule)
            if self.eye < _TINY:
                drawn = np.asarray(cv2.GaussianBlur(drawn, (0, 0), _SOFT * self.scale), np.uint8)
            return drawn
        # As in packing: shrink by area to between 2x and 4x, turn, and take the area again.
        shrink = int(0.5 / self.scale)
        if shrink >= 2:
            height, width = (-(-side // shrink) for side in part.shape[:2])
            room = (height * shrink - part.shape[0], width * shrink - part.shape[1])
            whole = cv2.copyMakeBorder(part, 0, room[0], 0, room[1], cv2.BORDER_REPLICATE)
            small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
            part = np.asarray(small, np.uint8)
            matrix[:, :2] *= shrink
        turned = _warped(part, 2 * matrix, (2 * self.width, 2 * self.height), cv2.INTER_LINEAR)
        halved = cv2.resize(turned, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.asarray(halved, np.uint8)

    def restore(self, plane: Plane, shape: tuple[int, ...]) -> tuple[Plane, tuple[int, int]]:
        """Bring a plane of the rectangle back into a photograph of shape (H, W).

        Returns
        -------
        patch, corner
            The part of the photograph that the rectangle touches, float32, zero outside of it,
            and x and y of its corner.
        """
        x, y, right, bottom = self.box(shape)
        if self.scale > 1:  # a face smaller than its frame: no pixel of the plane is left out
            sigma = 0.5 * np.sqrt(self.scale**2 - 1)
            plane = np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)
        back = cv2.invertAffineTransform(_moved(self.matrix, (x, y)))
        patch = cv2.warpAffine(plane, _to_centres(back), (right - x, bottom - y))
        return np.asarray(patch, np.float32), (x, y)


@dataclass(frozen=True)
class PhotoFrame:
    """The whole photograph, fitted into the square that training pictures are packed in.

    What it offers is as in `FaceFrame`.
    """

    geometry: Geometry

    @property
    def matrix(self) -> Floats:
        """2 x 3, pixels of the photograph to pixels of the square."""
        to = self.geometry
        across, down = to.width / to.source_width, to.height / to.source_height
        return np.array([[across, 0, to.left], [0, down, to.top]])

    @property
    def width(self) -> int:
        """Of the square, in pixels."""
        return self.geometry.size

    @property
    def eye(self) -> float:
        """0: nothing is known of the width of eyes in a picture of any framing."""
        return 0.0

    def sample(self, rgb: RGB) -> RGB:
        """Fit a photograph into the square."""
        return fit(rgb, self.geometry.size)[0]

    def restore(self, plane: Plane, _: tuple[int, ...]) -> tuple[Plane, tuple[int, int]]:
        """Bring a plane back; the patch is where something is likelier than 1 percent."""
        to = self.geometry
        inner = plane[to.top : to.top + to.height, to.left : to.left + to.width]
        x, y, width, height = cv2.boundingRect((inner > _LIKELY).view(np.uint8))
        if not width:
            return np.zeros((1, 1), np.float32), (0, 0)
        across, down = to.source_width / to.width, to.source_height / to.height
        left, top = max(0, int(across * (x - 1))), max(0, int(down * (y - 1)))
        right = min(to.source_width, int(across * (x + width + 1)) + 1)
        bottom = min(to.source_height, int(down * (y + height + 1)) + 1)
        map_ = np.array([[1 / across, 0, left / across], [0, 1 / down, top / down]])
        patch = cv2.warpAffine(
            inner, _to_centres(map_), (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        return np.asarray(patch, np.float32), (left, top)


Frame = FaceFrame | PhotoFrame


def turn(landmarks: npt.NDArray[np.floating]) -> Floats:
    """Return the 2 x 2 matrix that turns a face upright; its first figure is the roll's cosine."""
    points = np.asarray(landmarks, np.float64)
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    direction = points[1] - points[0] + np.array([down[1], -down[0]])
    cos, sin = direction / max(np.hypot(*direction), 1e-6)
    return np.array([[cos, sin], [-sin, cos]])


def _moved(matrix: Floats, corner: tuple[int, int]) -> Floats:
    """Let a map begin at a corner of the photograph."""
    return np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ corner])


def _to_centres(matrix: npt.ArrayLike) -> Floats:
    """Turn a map between corners of pixels into one between their centres, as OpenCV has it."""
    moved = np.array(matrix, np.float64)
    moved[:, 2] += moved[:, :2] @ (0.5, 0.5) - 0.5
    return moved


def _warped(rgb: RGB, matrix: Floats, size: tuple[int, int], rule: int) -> RGB:
    border = cv2.BORDER_REPLICATE
    drawn = cv2.warpAffine(rgb, _to_centres(matrix), size, flags=rule, borderMode=border)
    return np.asarray(drawn, np.uint8)

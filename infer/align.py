"""Bring a face into the framing of the training pictures, and its mask back.

The rule is CelebA-HQ's own (Karras et al., "Progressive Growing of GANs", ICLR 2018, appendix C):
a turned square whose centre, side and direction follow from the eyes and the corners of the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.image import RGB

Floats = npt.NDArray[np.float64]
# Distance of the eyes, in pixels of the photograph, under which an eye is some four pixels wide:
# there is nothing to segment.
LEAST_EYE_DISTANCE = 8.0
_SHARP = 0.7  # scale from which bilinear sampling leaves out no pixel worth mentioning


@dataclass(frozen=True)
class Alignment:
    """A turned square in a photograph that becomes the network's input.

    Attributes
    ----------
    matrix
        2 x 3, pixels of the photograph to pixels of the square; (0, 0) is the corner of the
        corner pixel.
    size
        Side of the square in pixels.
    """

    matrix: Floats
    size: int

    @classmethod
    def of_face(cls, landmarks: npt.NDArray[np.floating], size: int) -> Alignment:
        """Frame a face as CelebA-HQ does.

        Parameters
        ----------
        landmarks
            5 x 2, x and y: eyes (viewer's left first), nose, corners of the mouth.
        size
            Side of the square that comes out.
        """
        points = np.asarray(landmarks, np.float64)
        eyes, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
        across, down = points[1] - points[0], mouth - eyes
        side = max(4.0 * np.hypot(*across), 3.6 * np.hypot(*down), 1e-6)
        centre = eyes + 0.1 * down
        direction = across + np.array([down[1], -down[0]])
        direction = direction / max(np.hypot(*direction), 1e-6)
        return cls.of_square(centre, side, direction, size)

    @classmethod
    def of_square(cls, centre: Floats, side: float, direction: Floats, size: int) -> Alignment:
        """Frame a square by its centre and side in pixels and the unit vector to its right."""
        cos, sin = direction
        linear = size / side * np.array([[cos, sin], [-sin, cos]])
        offset = size / 2 - linear @ centre
        return cls(np.concatenate([linear, offset[:, None]], axis=1), size)

    @property
    def scale(self) -> float:
        """Pixels of the square for one of the photograph."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[0, 1]))

    @property
    def inverse(self) -> Floats:
        """2 x 3, pixels of the square to pixels of the photograph."""
        return np.asarray(cv2.invertAffineTransform(self.matrix), np.float64)

    def is_nearly_all_of(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a photograph of shape (H, W) is this square already, cut out by others."""
        height, width = shape[:2]
        side = self.size / self.scale
        turn = abs(np.arctan2(self.matrix[0, 1], self.matrix[0, 0]))
        centre = self.inverse @ (self.size / 2, self.size / 2, 1)
        off = np.abs(centre - (width / 2, height / 2)).max()
        return bool(
            0.85 < side / max(height, width) < 1.18
            and min(height, width) > 0.8 * max(height, width)
            and turn < np.deg2rad(8)
            and off < 0.08 * side
        )

    def sample(self, rgb: RGB) -> RGB:
        """Cut the square out of a photograph, antialiased; outside, its border is repeated.

        Parameters
        ----------
        rgb
            H x W x 3, uint8, RGB.

        Returns
        -------
        numpy.ndarray
            size x size x 3, uint8, RGB.
        """
        part, corner = self._neighbourhood(rgb)
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ corner
        if self.scale > _SHARP:  # nothing to be lost: one pixel of the photo makes one or more
            rule = cv2.INTER_CUBIC if self.scale > 1 else cv2.INTER_LINEAR
            direct = cv2.warpAffine(
                part, _to_centres(matrix), (self.size, self.size), flags=rule,
                borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
            return np.asarray(direct, np.uint8)
        # As in packing: shrink by area to between 2x and 4x, turn, and take the area again.
        shrink = int(0.5 / self.scale)
        if shrink >= 2:
            height, width = (-(-side // shrink) for side in part.shape[:2])
            room = (height * shrink - part.shape[0], width * shrink - part.shape[1])
            whole = cv2.copyMakeBorder(part, 0, room[0], 0, room[1], cv2.BORDER_REPLICATE)
            small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
            part = np.asarray(small, np.uint8)
            matrix[:, :2] *= shrink
        double = _to_centres(2 * matrix)
        size = (2 * self.size, 2 * self.size)
        turned = cv2.warpAffine(part, double, size, borderMode=cv2.BORDER_REPLICATE)
        halved = cv2.resize(turned, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.asarray(halved, np.uint8)

    def _neighbourhood(self, rgb: RGB) -> tuple[RGB, Floats]:
        """Return the part of a photograph around the square, and where its corner is."""
        x, y, right, bottom = self.box(rgb.shape[:2], margin=2 + 2 / self.scale)
        return rgb[y:bottom, x:right], np.array([x, y], np.float64)

    def box(self, shape: tuple[int, ...], margin: float = 1.0) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom of the square in a photograph of shape (H, W).

        Never empty: a square outside the photograph gets the nearest pixels.
        """
        ends = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float64) * self.size
        corners = ends @ self.inverse[:, :2].T + self.inverse[:, 2]
        limit = np.array([shape[1], shape[0]])
        low = np.clip(np.floor(corners.min(axis=0) - margin), 0, limit - 1).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0) + margin), low + 1, limit).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def restore(
        self, plane: npt.NDArray[np.float32], shape: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
        """Bring a plane of the square back into the photograph.

        Parameters
        ----------
        plane
            size x size, float32.
        shape
            Of the photograph, H x W.

        Returns
        -------
        patch, corner
            The part of the photograph that the square touches, zero outside the square, and x and
            y of its corner.
        """
        x, y, right, bottom = self.box(shape)
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ (x, y)
        scale, size = self.scale, (right - x, bottom - y)
        if scale > 1:  # a face smaller than the square: no pixel of the plane is left out
            sigma = 0.5 * np.sqrt(scale**2 - 1)
            plane = np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)
        back = _to_centres(np.asarray(cv2.invertAffineTransform(matrix), np.float64))
        patch = cv2.warpAffine(plane, back, size, flags=cv2.INTER_LINEAR)
        return np.asarray(patch, np.float32), (x, y)


def _to_centres(matrix: Floats) -> Floats:
    """Turn a map between corners of pixels into one between their centres, as OpenCV has it."""
    moved = np.array(matrix, np.float64)
    moved[:, 2] += moved[:, :2] @ (0.5, 0.5) - 0.5
    return moved

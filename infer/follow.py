"""Follow faces through a video, so that their masks do not flicker.

Landmarks are averaged with those of the frame before and, in the aligned square where an eye stays
in its place, so are the probabilities; less so the more a face moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infer.faces import FoundFace, overlap
from infer.predictor import Look

Plane = npt.NDArray[np.float32]
_FOLLOWED = 0.4  # overlap from which a face is that of the frame before


class Follower:
    """Averages faces over the frames of a video.

    Parameters
    ----------
    smooth
        Share of the past in the average, 0 (every frame for itself) up to, not including, 1.
    """

    def __init__(self, smooth: float) -> None:
        self._smooth = smooth
        self._faces: list[FoundFace] = []
        self._planes: list[tuple[FoundFace, Plane]] = []

    def steady(self, found: list[FoundFace]) -> list[FoundFace]:
        """Average landmarks with those of the frame before; call once a frame, in order."""
        steadied = []
        for face in found:
            before = _match(face, self._faces)
            if before is not None:
                share = self._smooth * _stillness(face, self._faces[before])
                points = share * self._faces[before].landmarks + (1 - share) * face.landmarks
                face = replace(face, landmarks=points.astype(np.float32))
            steadied.append(face)
        self._faces = steadied
        return steadied

    def blend(self, looks: Sequence[Look], planes: Iterable[Plane]) -> list[Plane]:
        """Average a frame's planes with those of the frame before.

        Parameters
        ----------
        looks
            Of the frame.
        planes
            Probabilities of those that have a frame, in the same order.
        """
        blended, faces, remaining = [], [], iter(planes)
        for look in looks:
            if look.frame is None:
                continue
            plane = next(remaining)
            if look.face is not None:
                before = _match(look.face, [other for other, _ in self._planes])
                if before is not None and self._planes[before][1].shape == plane.shape:
                    share = self._smooth * _stillness(look.face, self._planes[before][0])
                    old = self._planes[before][1]
                    plane = np.asarray(share * old + (1 - share) * plane, np.float32)
                faces.append((look.face, plane))
            blended.append(plane)
        self._planes = faces
        return blended


def _match(face: FoundFace, others: Sequence[FoundFace]) -> int | None:
    box = np.array(face.box, np.float32)
    shares = [overlap(box, np.array(other.box, np.float32)) for other in others]
    best, number = max(zip(shares, range(len(shares)), strict=True), default=(0.0, -1))
    return number if best > _FOLLOWED else None


def _stillness(face: FoundFace, before: FoundFace) -> float:
    """Return 1 for a face that stays, falling to 0 for one that moved by half an eye distance."""
    eyes = float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))
    moved = float(np.abs(face.landmarks - before.landmarks).mean())
    return float(np.clip(1 - 2 * moved / max(eyes, 1e-6), 0, 1))

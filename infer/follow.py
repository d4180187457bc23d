"""Follow faces through a video: found quickly where they were, and masks that do not flicker.

Landmarks are averaged with those of the frame before and, in the aligned square where an eye stays
in its place, so are the probabilities; less so the more a face moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infer.faces import FaceFinder, FoundFace, overlap
from infer.predictor import Look
from preprocess.image import RGB

Plane = npt.NDArray[np.float32]
_FOLLOWED = 0.4  # overlap from which a face is that of the frame before
_ANEW = 12  # frames after which faces are searched for everywhere
_GONE = 0.5  # of the distance of the eyes: who moved that far is not averaged
_ROOM = 1.25  # of a face's longer side, to every side of its middle: where the next frame looks


class Tracker:
    """Finds the faces of a video, frame after frame.

    Parameters
    ----------
    finder
        Searches the whole frame now and then, and if a face is lost; in between it looks around
        where the faces were, at a twentieth of the cost.
    """

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        self._faces: list[FoundFace] = []
        self._frames = 0

    def find(self, rgb: RGB) -> list[FoundFace]:
        """Find the faces of the next frame, H x W x 3 uint8 RGB."""
        followed = [] if self._frames % _ANEW == 0 else [self._near(rgb, f) for f in self._faces]
        faces = [face for face in followed if face is not None]
        if not faces or len(faces) < len(followed):
            faces = self._finder.find(rgb)
        self._faces, self._frames = faces, self._frames + 1
        return faces

    def _near(self, rgb: RGB, face: FoundFace) -> FoundFace | None:
        """Find a face of the frame before again; None if it is lost."""
        x, y, width, height = face.box
        reach = _ROOM * max(width, height)
        left, top = (max(0, int(v)) for v in (x + width / 2 - reach, y + height / 2 - reach))
        right, bottom = (int(v) + 1 for v in (x + width / 2 + reach, y + height / 2 + reach))
        part = rgb[top:bottom, left:right]
        if not part.size:
            return None
        found = [
            replace(other, box=(other.box[0] + left, other.box[1] + top, *other.box[2:]),
                    landmarks=other.landmarks + np.array([left, top], np.float32))
            for other in self._finder.find(part)
        ]  # fmt: skip
        place = _match(face, found)
        return None if place is None else found[place]


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
    return float(np.clip(1 - moved / max(_GONE * eyes, 1e-6), 0, 1))

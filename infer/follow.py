"""Follow faces through a video: found quickly where they were, and masks that do not flicker.

Landmarks are averaged with those of the frame before and, in the aligned square where an eye stays
in its place, so are the probabilities; less so the more a face moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from infer.faces import FaceFinder, FoundFace, overlap
from infer.frame import Plane
from infer.predictor import Look
from preprocess.image import RGB

_FOLLOWED = 0.4  # overlap from which a face is that of the frame before
_ANEW = 12  # frames after which faces are searched for everywhere
_GONE = 0.5  # of the distance of the eyes: who moved that far is not averaged
_REACH = 1.25  # of a face's longer side, to every side of its middle: where the next frame looks


class Tracker:
    """Finds the faces of a video, frame after frame.

    The whole frame is searched now and then, and if a face is lost; in between only the places
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
        reach = _REACH * max(width, height)
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
        self._seen: list[tuple[FoundFace, Plane]] = []

    def steady(self, found: list[FoundFace]) -> list[FoundFace]:
        """Average landmarks with those of the frame before; call once a frame, in order."""
        steadied = []
        for face in found:
            place = _match(face, self._faces)
            if place is not None:
                before = self._faces[place]
                share = self._smooth * _stillness(face, before)
                points = share * before.landmarks + (1 - share) * face.landmarks
                face = replace(face, landmarks=points.astype(np.float32))
            steadied.append(face)
        self._faces = steadied
        return steadied

    def blend(self, looks: Sequence[Look]) -> None:
        """Average a frame's planes with those of the frame before."""
        seen = []
        for look in looks:
            if look.face is None or look.plane is None:
                continue
            place = _match(look.face, [face for face, _ in self._seen])
            if place is not None:
                before, plane = self._seen[place]
                share = self._smooth * _stillness(look.face, before)
                look.plane = np.asarray(share * plane + (1 - share) * look.plane, np.float32)
            seen.append((look.face, look.plane))
        self._seen = seen


def _match(face: FoundFace, others: Sequence[FoundFace]) -> int | None:
    shares = [overlap(face.box, other.box) for other in others]
    best, number = max(zip(shares, range(len(shares)), strict=True), default=(0.0, -1))
    return number if best > _FOLLOWED else None


def _stillness(face: FoundFace, before: FoundFace) -> float:
    """Return 1 for a face that stays, falling to 0 for one that moved by half an eye distance."""
    eyes = float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))
    moved = float(np.abs(face.landmarks - before.landmarks).mean())
    return float(np.clip(1 - moved / max(_GONE * eyes, 1e-6), 0, 1))

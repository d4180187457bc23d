"""A trained network behind a plain function: a photograph in, faces, eyes and their mask out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from infer.eyes import Eye, Face, measure_eyes
from infer.faces import FaceFinder, FoundFace
from infer.frame import LEAST_EYE_DISTANCE, FaceFrame, Frame, PhotoFrame
from infer.network import Network, open_network
from infer.output import View, draw, save
from preprocess.errors import DecodeError, InputError
from preprocess.image import RGB, decode_rgb, from_pillow

# "auto", "whole", or how many of the largest faces.
Faces = str | int
Photo = RGB | str | PathLike[str] | bytes | Image.Image
Plane = npt.NDArray[np.float32]
NO_FACE = "no face was found, and the picture does not look like a cut-out face"
TOO_SMALL = "too small: its eyes are {:.0f} pixels apart"
# What the eyes of a cropped face are like: the least ratio of their areas; the distance between
# them, in shares of the longer side; the most slope; where their middle is, in shares of the width;
# the least distance in widths of an eye.
_ALIKE, _APART, _SLOPE, _AMID, _GAP = 0.3, (0.12, 0.5), 0.5, (0.3, 0.7), 1.2


@dataclass(frozen=True)
class Prediction:
    """Where the eyes of one photograph are.

    Attributes
    ----------
    photo
        H x W x 3, uint8, RGB; None if only a small version of it was decoded.
    faces
        The faces and their eyes, the largest face first.
    probability
        H x W float32, 0..1, at the photograph's own size.
    threshold
        Probability from which a pixel is an eye.
    warning
        What the caller should know, such as that no face was found; empty if all went well.
    """

    photo: RGB | None
    faces: tuple[Face, ...]
    probability: Plane
    threshold: float
    warning: str = ""

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """H x W bool, True where an eye is."""
        return self.probability >= self.threshold

    @property
    def eyes(self) -> tuple[Eye, ...]:
        """The eyes of all faces."""
        return tuple(eye for face in self.faces for eye in face.eyes)

    def draw(self, view: View | str) -> npt.NDArray[np.uint8]:
        """Draw the photograph and its eyes (see `infer.output.draw`)."""
        return draw(View(view), self.photo, self.probability, self.threshold, self.faces)

    def cutout(self) -> npt.NDArray[np.uint8]:
        """Return the eyes alone: H x W x 4 RGBA, soft at the edges, 0 everywhere else."""
        return self.draw(View.CUTOUT)

    def overlay(self) -> npt.NDArray[np.uint8]:
        """Return the photograph beside itself with the eyes tinted and outlined."""
        return self.draw(View.OVERLAY)

    def save(self, path: str | PathLike[str], view: View | str = View.PANEL) -> None:
        """Write a view as a picture, in the format of the file's ending."""
        save(self.draw(view), Path(path))

    def to_dict(self, photo: str = "") -> dict[str, Any]:
        """Return the figures as plain numbers, lists and dictionaries (docs/json.md)."""
        from infer.record import SCHEMA, rounded

        height, width = self.probability.shape
        return {
            "schema": SCHEMA, "photo": photo, "width": width, "height": height,
            "threshold": self.threshold, "warning": self.warning,
            "faces": [rounded(asdict(face)) for face in self.faces],
        }  # fmt: skip


@dataclass(frozen=True)
class Look:
    """A face and the frame through which the network sees it.

    Attributes
    ----------
    face
        None: the whole photograph is looked at.
    frame
        None: the face is too small to be segmented.
    """

    face: FoundFace | None
    frame: Frame | None


class Predictor:
    """Segments the eyes of photographs; may be shared by threads.

    Parameters
    ----------
    network
        See `infer.network`.
    finder
        Finds the faces; None makes one.
    """

    def __init__(self, network: Network, finder: FaceFinder | None = None) -> None:
        self.network = network
        self.finder = finder or FaceFinder()

    @classmethod
    def from_checkpoint(
        cls, path: str | PathLike[str], device: str = "auto", threads: int = 0
    ) -> Predictor:
        """Load a model that `train` wrote: ``.pth``, ``.safetensors`` or ``.onnx``.

        Raises
        ------
        InputError
            If the file is missing, damaged or no such model, or the device is not there.
        """
        return cls(open_network(Path(path), device, threads), FaceFinder(threads=threads))

    @classmethod
    def bundled(cls, device: str = "auto", threads: int = 0) -> Predictor:
        """Load the weights that come with the package (`infer.weights`: read their terms).

        Parameters
        ----------
        device
            auto and cpu take ONNX Runtime; cuda, cuda:N and mps take torch.
        threads
            For one photograph; 0 takes all cores. 1 is best if many are segmented side by side.

        Raises
        ------
        InputError
            If they are missing or differ from their checksum, or the device is not there.
        """
        return cls(open_network(None, device, threads), FaceFinder(threads=threads))

    def predict(self, photo: Photo, faces: Faces = "auto") -> Prediction:
        """Segment one photograph.

        Parameters
        ----------
        photo
            A path, the bytes of a file or a Pillow image, whose EXIF orientation is applied; or
            an H x W x 3 uint8 RGB array, which is taken as it is. Any size.
        faces
            "auto": every face that is found or, if there is none, the whole picture, provided it
            looks like one cut-out face. "whole": the whole picture, as it is. A number: so many
            of the largest faces.

        Raises
        ------
        InputError
            If the photograph cannot be read, the array is of another shape or type, or `faces`
            is something else.
        """
        rgb = to_rgb(photo)
        looks = self.look(rgb, faces)
        return self.assemble(rgb.shape, looks, self.planes(rgb, looks), faces, rgb)

    def look(
        self, rgb: RGB, faces: Faces = "auto", found: Sequence[FoundFace] | None = None
    ) -> list[Look]:
        """Find the faces of a photograph and frame them.

        Parameters
        ----------
        rgb
            H x W x 3, uint8, RGB.
        faces
            As in `predict`.
        found
            The faces, if they are known already.
        """
        if faces not in ("auto", "whole") and not (isinstance(faces, int) and faces > 0):
            raise InputError("faces", f"is {faces!r}", "Expected auto, whole or a number above 0")
        if found is None:
            found = [] if faces == "whole" else self.finder.find(rgb)
        found = sorted(found, key=lambda face: -face.box[2] * face.box[3])
        if isinstance(faces, int):
            found = found[:faces]
        size, stride = self.network.size, self.network.stride
        if not found:
            return [Look(None, PhotoFrame.of(rgb.shape, size))]
        return [
            Look(face, FaceFrame.of_face(face.landmarks, size, stride) if _is_large(face) else None)
            for face in found
        ]

    def planes(self, rgb: RGB, looks: Sequence[Look]) -> list[Plane]:
        """Run the network on the frames of a photograph: H x W float32, 0..1, for each."""
        pictures = [look.frame.sample(rgb) for look in looks if look.frame]
        return list(self.network(np.stack(pictures))) if pictures else []

    def assemble(
        self, shape: tuple[int, ...], looks: Sequence[Look], planes: Iterable[Plane],
        faces: Faces = "auto", photo: RGB | None = None,
    ) -> Prediction:  # fmt: skip
        """Bring the network's answers back into a photograph of shape (H, W), and measure."""
        height, width = shape[:2]
        threshold, remaining = self.network.threshold, iter(planes)
        probability, measured = np.zeros((height, width), np.float32), []
        for look in looks:
            if look.frame is None:
                assert look.face is not None
                problem = TOO_SMALL.format(_eye_distance(look.face))
                measured.append(_face(look.face, (), problem))
                continue
            patch, (x, y) = look.frame.restore(next(remaining), (height, width))
            eyes = measure_eyes(patch, threshold, (x, y), look.frame.matrix, look.frame.width)
            if look.face is None:
                if faces != "whole" and not _look_like_one_face(eyes, width, height):
                    return Prediction(photo, (), probability, threshold, NO_FACE)
                if eyes:
                    box = (0.0, 0.0, float(width), float(height))
                    measured.append(Face(box, (), None, eyes))
            else:
                measured.append(_face(look.face, eyes))
            part = probability[y : y + patch.shape[0], x : x + patch.shape[1]]
            np.maximum(part, patch, out=part)  # overlapping faces: the union
        return Prediction(photo, tuple(measured), probability, threshold)


def to_rgb(photo: Photo) -> RGB:
    """Turn whatever `Predictor.predict` takes into H x W x 3 uint8 RGB.

    Raises
    ------
    InputError
        If it cannot be read, or is an array of another shape or type.
    """
    if isinstance(photo, np.ndarray):
        rgb = photo
        if rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size or rgb.dtype != np.uint8:
            problem = f"is an array of shape {rgb.shape} and type {rgb.dtype}"
            raise InputError("photo", problem, "Expected H x W x 3, uint8")
        return rgb
    if isinstance(photo, bytes):
        return decode_rgb(photo, "photo")
    if isinstance(photo, Image.Image):
        return from_pillow(photo)
    try:
        return decode_rgb(Path(photo).read_bytes(), str(photo))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise DecodeError(photo, problem, "Check the path and its permissions") from None


def _face(found: FoundFace, eyes: tuple[Eye, ...], problem: str = "") -> Face:
    points = tuple((float(x), float(y)) for x, y in found.landmarks)
    return Face(found.box, points, found.score, eyes, problem)


def _is_large(face: FoundFace) -> bool:
    return _eye_distance(face) >= LEAST_EYE_DISTANCE


def _eye_distance(face: FoundFace) -> float:
    return float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))


def _look_like_one_face(eyes: tuple[Eye, ...], width: int, height: int) -> bool:
    """Return whether these are like the eyes of a cropped face: two, alike, side by side."""
    if len(eyes) != 2:
        return False
    (left, right), side = sorted(eyes, key=lambda eye: eye.centre[0]), max(width, height)
    across, down = (right.centre[axis] - left.centre[axis] for axis in (0, 1))
    middle = (right.centre[0] + left.centre[0]) / 2 / width
    return (
        min(left.area, right.area) > _ALIKE * max(left.area, right.area)
        and _APART[0] * side < across < _APART[1] * side
        and abs(down) < _SLOPE * across
        and _AMID[0] < middle < _AMID[1]
        and _GAP * max(left.box[2], right.box[2]) < across
    )

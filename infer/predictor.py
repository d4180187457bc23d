"""A trained network behind a plain function: a photograph in, faces, eyes and their mask out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from infer.eyes import Eye, Face, measure_eyes
from infer.faces import FaceFinder, FoundFace
from infer.frame import LEAST_EYE_DISTANCE, FaceFrame, Frame, PhotoFrame, Plane
from infer.network import Network, open_network
from infer.output import Prediction
from preprocess.errors import InputError
from preprocess.files import MAX_MEGAPIXELS, read_file
from preprocess.image import RGB, Geometry, decode_rgb, from_pillow

# "auto", "whole", or how many of the largest faces.
Faces = str | int
Photo = RGB | str | PathLike[str] | bytes | Image.Image
NO_FACE = "no face was found, and the picture does not look like a cut-out face"
TOO_SMALL = "too small: its eyes are {:.0f} pixels apart"
# What the eyes of a cropped face are like: the least ratio of their areas; the distance between
# them, in shares of the longer side; the most slope; where their middle is, in shares of the width;
# the least distance in widths of an eye.
_ALIKE, _APART, _SLOPE, _AMID, _GAP = 0.3, (0.12, 0.5), 0.5, (0.3, 0.7), 1.2
_AT_ONCE = 8  # faces in a batch: more are no faster, and the runtime keeps the memory they took
_FILLED = 0.35  # share of its box that each of them fills: two spots far apart are no eye


@dataclass
class Look:
    """A face, the frame through which the network sees it, and what the network says."""

    face: FoundFace | None  # None: the whole photograph is looked at
    frame: Frame | None  # None: the face is too small to be segmented
    plane: Plane | None = None  # height x width of the frame, float32, 0..1


class Predictor:
    """Segments the eyes of photographs by a network (see `infer.network`); shared by threads."""

    def __init__(
        self, network: Network, finder: FaceFinder | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:  # fmt: skip
        self.network, self.finder = network, finder or FaceFinder()
        self.max_megapixels = max_megapixels

    @classmethod
    def from_checkpoint(
        cls, path: str | PathLike[str] | None, device: str = "auto", threads: int = 0,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> Predictor:  # fmt: skip
        """Load a model that `train` wrote.

        Parameters
        ----------
        path
            ``.pth``, ``.safetensors`` or ``.onnx``; None: the weights in the package.
        device
            auto, cpu, cuda, cuda:N or mps. ``.onnx`` runs on the CPU only, as the bundled weights
            do by themselves; cuda and mps take torch.
        threads
            For one photograph; 0 takes all cores. 1 is best if many are segmented side by side.
        max_megapixels
            Larger files are refused by their header, before they take memory.

        Raises
        ------
        InputError
            If the file is missing, damaged or no such model, or the device is not there.
        """
        network = open_network(Path(path) if path else None, device, threads)
        return cls(network, FaceFinder(threads), max_megapixels)

    @classmethod
    def bundled(cls, device: str = "auto", threads: int = 0) -> Predictor:
        """Load the weights that come with the package (`infer.weights`: read their terms)."""
        return cls.from_checkpoint(None, device, threads)

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
        rgb = _to_rgb(photo, self.max_megapixels)
        looks = self.look(rgb, faces)
        self.see(rgb, looks)
        return self.assemble(rgb.shape, looks, faces, rgb)

    def look(
        self, rgb: RGB, faces: Faces = "auto", found: Sequence[FoundFace] | None = None
    ) -> list[Look]:
        """Find the faces of a photograph (or take those `found` already) and frame them."""
        if faces not in ("auto", "whole") and not (isinstance(faces, int) and faces > 0):
            raise InputError("faces", f"is {faces!r}", "Expected auto, whole or a number above 0")
        if found is None:
            found = [] if faces == "whole" else self.finder.find(rgb)
        found = sorted(found, key=lambda face: -face.box[2] * face.box[3])
        if isinstance(faces, int):
            found = found[:faces]
        size, stride = self.network.size, self.network.stride
        if not found:
            return [Look(None, PhotoFrame(Geometry.fit(rgb.shape[0], rgb.shape[1], size)))]
        return [
            Look(face, FaceFrame.of_face(face.landmarks, size, stride)
                 if _eye_distance(face) >= LEAST_EYE_DISTANCE else None)
            for face in found
        ]  # fmt: skip

    def see(self, rgb: RGB, looks: Sequence[Look]) -> None:
        """Run the network on the frames of a photograph, and put its planes beside them."""
        framed = [(look, look.frame) for look in looks if look.frame]
        for first in range(0, len(framed), _AT_ONCE):
            some = framed[first : first + _AT_ONCE]
            planes = self.network(np.stack([frame.sample(rgb) for _, frame in some]))
            for (look, _), plane in zip(some, planes, strict=True):
                look.plane = plane

    def assemble(
        self, shape: tuple[int, ...], looks: Sequence[Look], faces: Faces, photo: RGB | None
    ) -> Prediction:
        """Bring the planes back into a photograph of shape (H, W), and measure the eyes."""
        height, width = shape[:2]
        threshold, measured = self.network.threshold, []
        probability = np.zeros((height, width), np.float32)
        for look in looks:
            if look.frame is None or look.plane is None:
                assert look.face is not None
                problem = TOO_SMALL.format(_eye_distance(look.face))
                measured.append(_face(look.face, (), problem))
                continue
            patch, (x, y) = look.frame.restore(look.plane, (height, width))
            eyes = measure_eyes(patch, threshold, (x, y), look.frame)
            if look.face:
                measured.append(_face(look.face, eyes))
            elif faces != "whole" and not _look_like_one_face(eyes, width, height):
                return Prediction(photo, (), probability, threshold, NO_FACE)
            elif eyes:
                measured.append(Face((0.0, 0.0, float(width), float(height)), (), None, eyes))
            part = probability[y : y + patch.shape[0], x : x + patch.shape[1]]
            np.maximum(part, patch, out=part)  # overlapping faces: the union
        return Prediction(photo, tuple(measured), probability, threshold)


def _to_rgb(photo: Photo, max_megapixels: float) -> RGB:
    if isinstance(photo, np.ndarray):
        if photo.ndim != 3 or photo.shape[2] != 3 or not photo.size or photo.dtype != np.uint8:
            problem = f"is an array of shape {photo.shape} and type {photo.dtype}"
            raise InputError("photo", problem, "Expected H x W x 3, uint8")
        return photo
    if isinstance(photo, bytes):
        return decode_rgb(photo, "photo", max_megapixels)
    if isinstance(photo, Image.Image):
        return from_pillow(photo)
    return decode_rgb(read_file(Path(photo)), str(photo), max_megapixels)


def _face(found: FoundFace, eyes: tuple[Eye, ...], problem: str = "") -> Face:
    points = tuple((float(x), float(y)) for x, y in found.landmarks)
    return Face(found.box, points, found.score, eyes, problem)


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
        and all(eye.area > _FILLED * eye.box[2] * eye.box[3] for eye in eyes)
    )

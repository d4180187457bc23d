"""A trained network behind a plain function: RGB array in, faces, eyes and their mask out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from infer.align import LEAST_EYE_DISTANCE, Alignment
from infer.eyes import Eye, Face, measure_eyes
from infer.faces import FaceFinder, FoundFace
from infer.weights import load_bundled
from preprocess.errors import InputError
from preprocess.image import RGB, Geometry, fit
from train.checkpoint import Checkpoint
from train.device import resolve_device
from train.model import fold_batch_norm, to_channels_last

# "auto", "whole", or how many of the largest faces.
Faces = str | int
NO_FACE = "no face was found, and the picture does not look like a cut-out face"


@dataclass(frozen=True)
class Prediction:
    """Where the eyes of one photograph are.

    Attributes
    ----------
    faces
        The faces and their eyes, the largest face first.
    probability
        H x W float32, 0..1, at the photograph's own size.
    threshold
        Probability from which a pixel is an eye.
    warning
        What the caller should know, such as that no face was found; empty where all went well.
    """

    faces: tuple[Face, ...]
    probability: npt.NDArray[np.float32]
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


@dataclass(frozen=True)
class Prepared:
    """A photograph cut into what the network takes.

    Attributes
    ----------
    shape
        Height and width of the photograph.
    squares
        The network's inputs, size x size x 3 uint8 RGB: one a face, or the whole picture.
    found, alignments
        The faces, and the frame of each; None where it is too small to be segmented.
    whole
        Placement of the whole picture, where that is the (only) square.
    must_look_like_a_face
        Whether the whole picture counts only where its mask looks like the eyes of one face.
    """

    shape: tuple[int, int]
    squares: tuple[RGB, ...]
    found: tuple[FoundFace, ...] = ()
    alignments: tuple[Alignment | None, ...] = ()
    whole: Geometry | None = None
    must_look_like_a_face: bool = False


class Predictor:
    """Segments the eyes of photographs; may be shared by threads.

    Parameters
    ----------
    checkpoint
        Weights, input specification and threshold.
    device
        "auto", "cpu", "cuda" or "cuda:N".
    finder
        Finds the faces; None makes one.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "auto", finder: FaceFinder | None = None
    ) -> None:
        self.device = resolve_device(device)
        self.spec = checkpoint.spec
        self.threshold = checkpoint.threshold
        self.finder = finder or FaceFinder()
        self._model = checkpoint.build(
            to_channels_last(fold_batch_norm(checkpoint.network()), self.device)
        )

    @classmethod
    def from_checkpoint(cls, path: str | PathLike[str], device: str = "auto") -> Predictor:
        """Load a checkpoint that `train` wrote.

        Raises
        ------
        InputError
            Where the file is missing, damaged or no such checkpoint, or the device is not there.
        """
        return cls(Checkpoint.load(Path(path)), device)

    @classmethod
    def bundled(cls, device: str = "auto") -> Predictor:
        """Load the weights that come with the package (`infer.weights`: read their terms).

        Raises
        ------
        InputError
            Where they are missing or differ from their checksum, or the device is not there.
        """
        return cls(load_bundled(), device)

    def predict(self, rgb: RGB, faces: Faces = "auto") -> Prediction:
        """Segment one photograph.

        Parameters
        ----------
        rgb
            H x W x 3, uint8, RGB, upright, of any size.
        faces
            "auto": every face that is found or, where there is none, the whole picture if it
            looks like one cut-out face. "whole": the whole picture, as it is. A number: so many
            of the largest faces.

        Raises
        ------
        InputError
            Where the array is of another shape or type, or `faces` is something else.
        """
        prepared = self.prepare(rgb, faces)
        return self.assemble(prepared, self.probabilities(prepared.squares))

    def prepare(
        self, rgb: RGB, faces: Faces = "auto", found: Sequence[FoundFace] | None = None
    ) -> Prepared:
        """Find the faces of a photograph and cut them out: what `predict` does first.

        Parameters
        ----------
        rgb, faces
            As in `predict`.
        found
            The faces, where they are known already.

        Raises
        ------
        InputError
            As `predict`.
        """
        shape_is_right = rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size > 0
        if not shape_is_right or rgb.dtype != np.uint8:
            problem = f"is an array of shape {rgb.shape} and type {rgb.dtype}"
            raise InputError("rgb", problem, "Expected H x W x 3, uint8")
        if faces not in ("auto", "whole") and not (isinstance(faces, int) and faces > 0):
            raise InputError("faces", f"is {faces!r}", "Expected auto, whole or a number above 0")
        shape = rgb.shape[:2]
        if faces == "whole":
            square, geometry = fit(rgb, self.spec.size)
            return Prepared(shape, (square,), whole=geometry)
        if found is None:
            # Of a face that is cut out already, a closer look finds only strangers far behind it.
            one = faces in ("auto", 1)
            found = self.finder.find(rgb, (lambda f: _is_cut_out(f, shape)) if one else None)
        found = sorted(found, key=lambda face: -face.box[2] * face.box[3])
        if isinstance(faces, int):
            found = found[:faces]
        alignments = [
            Alignment.of_face(face.landmarks, self.spec.size)
            if _eye_distance(face) >= LEAST_EYE_DISTANCE
            else None
            for face in found
        ]
        if not found or _is_cut_out(found, shape):
            square, geometry = fit(rgb, self.spec.size)
            return Prepared(
                shape, (square,), tuple(found), whole=geometry, must_look_like_a_face=not found
            )
        squares = tuple(alignment.sample(rgb) for alignment in alignments if alignment)
        return Prepared(shape, squares, tuple(found), tuple(alignments))

    @torch.inference_mode()
    def probabilities(self, squares: Sequence[RGB]) -> npt.NDArray[np.float32]:
        """Run the network on squares, as one batch.

        Parameters
        ----------
        squares
            Each size x size x 3, uint8, RGB (`spec.size`), from `prepare` or fitted by
            `preprocess.image`.

        Returns
        -------
        numpy.ndarray
            N x size x size, float32, 0..1.
        """
        if not squares:
            return np.zeros((0, self.spec.size, self.spec.size), np.float32)
        images = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2)
        probability: npt.NDArray[np.float32] = self._model(images).sigmoid()[:, 0].cpu().numpy()
        return probability

    def assemble(self, prepared: Prepared, planes: npt.NDArray[np.float32]) -> Prediction:
        """Bring the network's answers back into the photograph: what `predict` does last.

        Parameters
        ----------
        prepared
            From `prepare`.
        planes
            N x size x size, float32, 0..1: the probabilities of its squares.
        """
        if prepared.whole:
            return self._assemble_whole(prepared, prepared.whole, planes[0])
        probability = np.zeros(prepared.shape, np.float32)
        remaining = iter(planes)
        faces = []
        for found, alignment in zip(prepared.found, prepared.alignments, strict=True):
            if alignment is None:
                problem = f"too small: its eyes are {_eye_distance(found):.0f} pixels apart"
                faces.append(_face(found, (), problem))
                continue
            patch, (x, y) = alignment.restore(next(remaining), prepared.shape)
            part = probability[y : y + patch.shape[0], x : x + patch.shape[1]]
            np.maximum(part, patch, out=part)  # overlapping faces: the union
            eyes = measure_eyes(patch, self.threshold, (x, y), alignment.matrix, self.spec.size)
            faces.append(_face(found, eyes))
        return Prediction(tuple(faces), probability, self.threshold)

    def _assemble_whole(
        self, prepared: Prepared, geometry: Geometry, plane: npt.NDArray[np.float32]
    ) -> Prediction:
        height, width = prepared.shape
        probability = geometry.restore(plane)
        upright = np.array([[1.0, 0, 0], [0, 1.0, 0]])
        eyes = measure_eyes(probability, self.threshold, (0, 0), upright, width)
        if prepared.must_look_like_a_face and not _look_like_one_face(eyes, width, height):
            return Prediction((), np.zeros_like(probability), self.threshold, NO_FACE)
        if prepared.found:
            return Prediction((_face(prepared.found[0], eyes),), probability, self.threshold)
        faces = (Face((0.0, 0.0, float(width), float(height)), (), None, eyes),) if eyes else ()
        return Prediction(faces, probability, self.threshold)


def _face(found: FoundFace, eyes: tuple[Eye, ...], problem: str = "") -> Face:
    points = tuple((float(x), float(y)) for x, y in found.landmarks)
    return Face(found.box, points, found.score, eyes, problem)


def _is_cut_out(found: Sequence[FoundFace], shape: tuple[int, ...]) -> bool:
    """Tell a photograph that is, but for a little, the square of its only face."""
    if len(found) != 1 or _eye_distance(found[0]) < LEAST_EYE_DISTANCE:
        return False
    # Any size does: the square is compared with the photograph.
    return Alignment.of_face(found[0].landmarks, 256).is_nearly_all_of(shape)


def _eye_distance(face: FoundFace) -> float:
    return float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))


def _look_like_one_face(eyes: tuple[Eye, ...], width: int, height: int) -> bool:
    """Tell the eyes of a cut-out face: two of a size, side by side, about where they have to be."""
    if len(eyes) != 2:
        return False
    (left, right), side = sorted(eyes, key=lambda eye: eye.centre[0]), max(width, height)
    across, down = (right.centre[axis] - left.centre[axis] for axis in (0, 1))
    middle = (right.centre[0] + left.centre[0]) / 2 / width
    return (
        min(left.area, right.area) > 0.3 * max(left.area, right.area)
        and 0.12 * side < across < 0.5 * side
        and abs(down) < 0.5 * across
        and 0.3 < middle < 0.7
        and 1.2 * max(left.box[2], right.box[2]) < across
    )

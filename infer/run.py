"""Many photographs side by side, each on a core of its own, from file to result files.

A bad file yields a `Failure`; the other photographs are still processed.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO

from PIL import Image

from infer.eyes import Face
from infer.frame import PhotoFrame
from infer.output import View, save, save_eyes
from infer.photos import STDIN, Job
from infer.predictor import Faces, Look, Prediction, Predictor
from infer.record import save_record
from preprocess.errors import InputError
from preprocess.image import PILLOW_ERRORS, decode_fitted, decode_rgb
from preprocess.runtime import usable_cores

# Photographs that may be in memory at once, in pixels: some 10 bytes each.
_PIXELS = 60e6


@dataclass(frozen=True)
class Result:
    """A photograph that was segmented: its faces and eyes, and what to know about it."""

    job: Job
    faces: tuple[Face, ...]
    warning: str

    @property
    def eyes(self) -> int:
        """How many there are."""
        return sum(len(face.eyes) for face in self.faces)


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be read, or whose result could not be written."""

    job: Job
    problem: str


def run(
    predictor: Predictor, jobs: Sequence[Job], faces: Faces = "auto"
) -> Iterator[Result | Failure]:
    """Segment photographs and write the results; yields in order, as they are done.

    Parameters
    ----------
    predictor
        Of one thread, if there are several photographs.
    jobs
        From `infer.photos.plan`.
    faces
        "auto", "whole" or a number, as in `Predictor.predict`.
    """
    pool = ThreadPoolExecutor(max(1, min(8, usable_cores(), len(jobs))))
    try:
        yield from pool.map(partial(_segment, predictor, faces, _Room()), jobs)
    finally:
        pool.shutdown(cancel_futures=True)


class _Room:
    """Bounds the pixels of the photographs that are in memory; one photograph always fits."""

    def __init__(self) -> None:
        self._taken, self._changed = 0.0, threading.Condition()

    @contextmanager
    def take(self, pixels: float) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= _PIXELS)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


def _segment(predictor: Predictor, faces: Faces, room: _Room, job: Job) -> Result | Failure:
    try:
        data = sys.stdin.buffer.read() if job.photo == STDIN else job.photo.read_bytes()
    except OSError as error:
        return Failure(job, f"{job.photo}: cannot be read ({error.strerror or error})")
    with room.take(_pixels(data)):
        try:
            prediction = _predict(predictor, faces, job, data)
        except InputError as error:
            return Failure(job, str(error))
        path = job.results[0]
        try:
            for view, path in job.pictures.items():
                if view is View.EYES:
                    save_eyes(prediction.cutout(), prediction.faces, path)
                else:
                    save(prediction.draw(view), path)
            if job.record:
                path = job.record
                save_record(prediction.to_dict(job.photo.name), path)
        except OSError as error:
            return Failure(job, f"{path}: cannot be written ({error.strerror or error})")
    return Result(job, prediction.faces, _remarks(prediction))


def _predict(predictor: Predictor, faces: Faces, job: Job, data: bytes) -> Prediction:
    if faces == "whole" and not set(job.pictures) - {View.MASK, View.SOFT}:
        # Nobody looks at the photograph itself: a large JPEG is decoded small.
        square, geometry = decode_fitted(data, predictor.network.size, str(job.photo))
        shape = (geometry.source_height, geometry.source_width)
        planes = predictor.network(square[None])
        return predictor.assemble(shape, [Look(None, PhotoFrame(geometry))], planes, faces)
    rgb = decode_rgb(data, str(job.photo))
    return predictor.predict(rgb, faces)


def _pixels(data: bytes) -> float:
    """Read a photograph's size from its header; what cannot be read counts as nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large pictures: that is the point
            with Image.open(BytesIO(data)) as photo:
                return float(photo.width * photo.height)
    except (*PILLOW_ERRORS, Image.DecompressionBombError):
        return 0.0  # decoding will name the damage


def _remarks(prediction: Prediction) -> str:
    small = sum(bool(face.problem) for face in prediction.faces)
    if small:
        return f"{small} of {len(prediction.faces)} faces too small to be segmented"
    return prediction.warning

"""Many photographs side by side, each on a core of its own, from file to result files.

A bad file is an `Outcome` with a problem; the other photographs are still processed.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO

from PIL import Image

from infer.eyes import Face
from infer.frame import PhotoFrame
from infer.output import Prediction, View
from infer.photos import STDIN, Job
from infer.predictor import Faces, Look, Predictor
from infer.record import to_line
from preprocess.errors import InputError
from preprocess.files import atomic_file, read_file
from preprocess.image import PILLOW_ERRORS, decode_fitted, decode_rgb
from preprocess.runtime import usable_cores

# Photographs that may be in memory at once, in pixels: some 10 bytes each.
_PIXELS = 60e6


@dataclass(frozen=True)
class Outcome:
    """What became of a photograph."""

    job: Job
    faces: tuple[Face, ...] = ()
    warning: str = ""  # what to know about the result
    problem: str = ""  # why there is none


def run(predictor: Predictor, jobs: Sequence[Job], faces: Faces = "auto") -> Iterator[Outcome]:
    """Segment photographs and write the results; yields in order, as they are done.

    The predictor should have one thread if there are several `jobs` (of `infer.photos.plan`).
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


def _segment(predictor: Predictor, faces: Faces, room: _Room, job: Job) -> Outcome:
    path = job.photo
    try:
        data = sys.stdin.buffer.read() if path == STDIN else read_file(path)
        with room.take(_pixels(data)):
            prediction = predict_file(predictor, faces, str(path), data, job.pictures)
            for view, path in job.pictures.items():
                prediction.save(path, view)
            if job.record:
                path = job.record
                with atomic_file(path, sync=False) as file:
                    file.write(to_line(prediction.to_dict(job.photo.name)))
            found, warning = prediction.faces, remark(prediction)
            del prediction  # before its room is given to the next photograph
    except InputError as error:
        return Outcome(job, problem=str(error))
    except OSError as error:
        return Outcome(job, problem=f"{path}: cannot be written ({error.strerror or error})")
    return Outcome(job, found, warning)


def remark(prediction: Prediction) -> str:
    """Return what to know about a result, or nothing."""
    small = sum(bool(face.problem) for face in prediction.faces)
    said = f"{small} of {len(prediction.faces)} faces too small to be segmented"
    return said if small else prediction.warning


def predict_file(
    predictor: Predictor, faces: Faces, name: str, data: bytes, views: Iterable[View] = ()
) -> Prediction:
    """Segment what was read from a file, to be drawn as these views."""
    most = predictor.max_megapixels
    if faces != "whole" or set(views) - {View.MASK, View.SOFT}:
        return predictor.predict(decode_rgb(data, name, most), faces)
    # Nobody looks at the photograph itself: a large JPEG is decoded small.
    square, geometry = decode_fitted(data, predictor.network.size, name, most)
    look = Look(None, PhotoFrame(geometry), predictor.network(square[None])[0])
    shape = (geometry.source_height, geometry.source_width)
    return predictor.assemble(shape, [look], faces, None)


def _pixels(data: bytes) -> float:
    """Read a photograph's size from its header; what cannot be read counts as nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large pictures: that is the point
            with Image.open(BytesIO(data)) as photo:
                return float(photo.width * photo.height)
    except PILLOW_ERRORS:
        return 0.0  # decoding will name the damage

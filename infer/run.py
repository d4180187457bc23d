"""Many photographs: decoding, face finding, the network and writing overlap.

Batches go across photographs and faces. One bad file is a `Failure`; the others are done.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infer.output import View, draw, save
from infer.photos import Job
from infer.predictor import Faces, Prediction, Predictor, Prepared
from infer.record import save_record, to_record
from preprocess.errors import DecodeError, InputError
from preprocess.image import PILLOW_ERRORS, RGB, decode_fitted, decode_rgb
from preprocess.runtime import usable_cores

_BATCH = 4
# Photographs that may be in memory at once, in pixels: some 10 bytes each.
_PIXELS_IN_FLIGHT = 60e6


@dataclass(frozen=True)
class Result:
    """A photograph that was segmented: how many faces and eyes, and what to know about it."""

    job: Job
    faces: int
    eyes: int
    warning: str


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be read, or whose result could not be written."""

    job: Job
    problem: str


@dataclass(frozen=True)
class _Loaded:
    prepared: Prepared
    photo: RGB | None


def run(
    predictor: Predictor, jobs: Sequence[Job], faces: Faces = "auto"
) -> Iterator[Result | Failure]:
    """Segment photographs and write the results; yields in order, as they are done.

    Parameters
    ----------
    predictor
        The network.
    jobs
        From `plan`.
    faces
        "auto", "whole" or a number, as in `Predictor.predict`.
    """
    waiting = deque(jobs)
    loading: deque[tuple[Job, float, Future[_Loaded]]] = deque()
    finishing: deque[tuple[float, Future[list[Result | Failure]]]] = deque()
    in_flight = 0.0
    workers = max(1, min(8, usable_cores(), len(jobs)))
    with _shared_cores(workers) as share, ThreadPoolExecutor(workers, initializer=share) as pool:
        while waiting or loading:
            while waiting and len(loading) < 2 * _BATCH:
                pixels = _pixels(waiting[0].photo)
                if in_flight and in_flight + pixels > _PIXELS_IN_FLIGHT:
                    break
                job = waiting.popleft()
                in_flight += pixels
                loading.append((job, pixels, pool.submit(_load, predictor, job, faces)))
            batch: list[tuple[Job, _Loaded | Failure]] = []
            squares, held = 0, 0.0
            while loading and squares < _BATCH:
                job, pixels, decoded = loading.popleft()
                held += pixels
                try:
                    loaded = decoded.result()
                    squares += len(loaded.prepared.squares)
                    batch.append((job, loaded))
                except InputError as error:
                    batch.append((job, Failure(job, str(error))))
            finishing.append((held, pool.submit(_finish, predictor, batch)))
            del batch
            crowded = bool(waiting) and not loading
            while finishing and (crowded or len(finishing) > workers):
                held, finished = finishing.popleft()
                yield from finished.result()
                in_flight -= held
        while finishing:
            yield from finishing.popleft()[1].result()


@contextmanager
def _shared_cores(workers: int) -> Iterator[Callable[[], None]]:
    """Give each worker its share of the cores for the network; yields what sets a worker up.

    Photographs side by side, each on a core of its own, are done sooner than one after the other
    on all cores: no operation waits for the slower half of its threads. torch keeps the number
    by thread, and, for threads to come, by process: that one is put back.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    try:
        yield lambda: torch.set_num_threads(share)
    finally:
        torch.set_num_threads(threads)


def _pixels(path: Path) -> float:
    """Read a photograph's size from its header; what cannot be read counts as nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large pictures: that is the point
            with Image.open(path) as photo:
                return float(photo.width * photo.height)
    except (*PILLOW_ERRORS, Image.DecompressionBombError):
        return 0.0  # decoding will name the damage


def _load(predictor: Predictor, job: Job, faces: Faces) -> _Loaded:
    try:
        data = job.photo.read_bytes()
    except OSError as error:
        raise DecodeError(job.photo, f"cannot be read ({error.strerror})", "Check it") from None
    needs_photo = any(view not in {View.MASK, View.SOFT} for view in job.pictures)
    if faces == "whole" and not needs_photo:
        # Nobody looks at the photograph itself: a large JPEG is decoded small.
        square, geometry = decode_fitted(data, predictor.spec.size, str(job.photo))
        shape = (geometry.source_height, geometry.source_width)
        return _Loaded(Prepared(shape, (square,), whole=geometry), None)
    rgb = decode_rgb(data, str(job.photo))
    return _Loaded(predictor.prepare(rgb, faces), rgb if needs_photo else None)


def _finish(
    predictor: Predictor, batch: Sequence[tuple[Job, _Loaded | Failure]]
) -> list[Result | Failure]:
    """Run the squares of a batch of photographs through the network, and write the results."""
    squares = [
        square
        for _, loaded in batch
        if isinstance(loaded, _Loaded)
        for square in loaded.prepared.squares
    ]
    planes = np.concatenate(
        [predictor.probabilities([])]
        + [predictor.probabilities(squares[at : at + _BATCH])
           for at in range(0, len(squares), _BATCH)]
    )  # fmt: skip
    results: list[Result | Failure] = []
    for job, loaded in batch:
        if isinstance(loaded, _Loaded):
            count = len(loaded.prepared.squares)
            results.append(_write(predictor, job, loaded, planes[:count]))
            planes = planes[count:]
        else:
            results.append(loaded)
    return results


def _write(
    predictor: Predictor, job: Job, loaded: _Loaded, planes: npt.NDArray[np.float32]
) -> Result | Failure:
    prediction = predictor.assemble(loaded.prepared, planes)
    path = job.photo
    try:
        for view, path in job.pictures.items():
            picture = draw(view, loaded.photo, prediction.probability, prediction.threshold)
            save(picture, path)
        if job.record:
            path = job.record
            save_record(to_record(prediction, job.photo.name), path)
    except OSError as error:
        return Failure(job, f"{path}: cannot be written ({error.strerror or error})")
    return Result(job, len(prediction.faces), len(prediction.eyes), _remarks(prediction))


def _remarks(prediction: Prediction) -> str:
    small = sum(bool(face.problem) for face in prediction.faces)
    if small:
        return f"{small} of {len(prediction.faces)} faces too small to be segmented"
    return prediction.warning

"""Many photographs: decoding, face finding, the network and writing overlap.

Batches go across photographs and faces. One bad file is a `Failure`; the others are done.
"""

from __future__ import annotations

import glob
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infer.output import View, draw, save
from infer.predictor import Faces, Prediction, Predictor, Prepared
from infer.record import save_record, to_record
from preprocess.errors import DecodeError, InputError
from preprocess.image import PILLOW_ERRORS, RGB, decode_fitted, decode_rgb
from preprocess.runtime import usable_cores

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_BATCH = 4
# Photographs that may be in memory at once, in pixels: some 10 bytes each.
_PIXELS_IN_FLIGHT = 60e6


@dataclass(frozen=True)
class Job:
    """One photograph and where its results go.

    Attributes
    ----------
    photo
        The file.
    pictures
        What to draw, and the file it goes to.
    record
        The JSON file, where one is wanted.
    """

    photo: Path
    pictures: dict[View, Path] = field(default_factory=dict)
    record: Path | None = None

    @property
    def results(self) -> tuple[Path, ...]:
        """All files that are written."""
        return (*self.pictures.values(), *([self.record] if self.record else []))


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


def find_photos(inputs: Sequence[str]) -> list[Path]:
    """Turn files, folders and glob patterns into a list of photographs, without repetitions.

    Raises
    ------
    InputError
        Where one of them names nothing.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given)
        if not given:
            raise InputError("--image", "is empty", "Give a photo, a folder or a pattern")
        if path.is_dir():
            photos = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not photos:
                endings = " ".join(sorted(SUFFIXES))
                raise InputError(path, "holds no photograph", f"Looked for {endings}")
        elif path.is_file():
            photos = [path]
        else:
            photos = sorted(Path(name) for name in glob.glob(given, recursive=True))  # noqa: PTH207  # absolute too
            photos = [p for p in photos if p.is_file()]
            if not photos:
                raise InputError(given, "does not exist", "Give a photo, a folder or a pattern")
        found.update(dict.fromkeys(photos))
    return list(found)


def plan(
    photos: Sequence[Path],
    output: Path | None,
    views: Sequence[View] = (View.PANEL,),
    *,
    json: bool = False,
    overwrite: bool = True,
) -> list[Job]:
    """Name the results of each photograph.

    One photograph's only picture is `output` itself; otherwise a folder is filled with
    ``{stem}_eyes.png`` or, of several pictures, ``{stem}_eyes_{view}.png``, with the ending or a
    number added where stems collide. JSON is named like the picture, ending in ``.json``.

    Parameters
    ----------
    photos
        Files.
    output
        File or folder; None takes ``eye_segmentation_result`` (.png).
    views
        What to draw.
    json
        Whether to write JSON too.
    overwrite
        Whether files that exist may be replaced.

    Raises
    ------
    InputError
        Where several results are to go into one file, a result would replace a photograph, or
        something that exists and may not be replaced.
    """
    default = Path("eye_segmentation_result")
    if len(photos) == 1 and not (output and (output.is_dir() or not output.suffix)):
        base = output or default.with_suffix(".png")
        jobs = [_job(photos[0], base, views, json)]
    else:
        folder = output or default
        if folder.is_file() or (folder.suffix and not folder.is_dir()):
            remedy = "Give --output a folder (a name without an ending)"
            raise InputError(folder, f"is one file for {len(photos)} photographs", remedy)
        jobs = []
        names: set[str] = set()
        for photo in photos:
            stem, number = photo.stem, 2
            if stem in names:
                stem = photo.name.replace(".", "_")
            while stem in names:
                stem, number = f"{photo.name.replace('.', '_')}_{number}", number + 1
            names.add(stem)
            jobs.append(_job(photo, folder / f"{stem}_eyes.png", views, json))
    return _checked(jobs, overwrite)


def _job(photo: Path, base: Path, views: Sequence[View], json: bool) -> Job:
    pictures = {views[0]: base} if len(views) == 1 else {
        view: base.with_name(f"{base.stem}_{view}{base.suffix}") for view in views
    }  # fmt: skip
    return Job(photo, pictures, base.with_suffix(".json") if json else None)


def _checked(jobs: list[Job], overwrite: bool) -> list[Job]:
    photos = {job.photo.resolve() for job in jobs}
    for job in jobs:
        for result in job.results:
            if result.resolve() in photos:
                problem = "is a photograph and would be overwritten by a result"
                raise InputError(result, problem, "Give another --output")
    there = [path for job in jobs for path in job.results if path.is_file()]
    if there and not overwrite:
        others = f" (and {len(there) - 1} other results)" if len(there) > 1 else ""
        remedy = "Add --overwrite to replace, or give another --output"
        raise InputError(there[0], f"exists already{others}", remedy)
    return jobs


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

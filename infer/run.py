"""Many photographs: decoding, the network and writing overlap; one bad file stops nothing."""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infer.output import View, draw, save, shrink
from infer.predictor import Predictor
from preprocess.cores import usable_cores
from preprocess.errors import DecodeError, InputError
from preprocess.image import RGB, Geometry, decode_fitted, decode_rgb

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_BATCH = 8


@dataclass(frozen=True)
class Job:
    """One photograph and where its result goes."""

    photo: Path
    result: Path


@dataclass(frozen=True)
class Result:
    """A photograph that was segmented, and whether any eye was found."""

    job: Job
    found: bool


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be read, or whose result could not be written."""

    job: Job
    problem: str


@dataclass(frozen=True)
class _Loaded:
    job: Job
    square: RGB
    geometry: Geometry
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


def plan(photos: Sequence[Path], output: Path | None) -> list[Job]:
    """Name the result of each photograph.

    One photograph's result is `output` itself (a folder is filled); several go into the folder
    `output` as ``{stem}_eyes.png``, with the ending or a number added where stems collide.

    Raises
    ------
    InputError
        Where several results are to go into one file, or a result would replace a photograph.
    """
    default = Path("eye_segmentation_result")
    if len(photos) == 1 and not (output and (output.is_dir() or not output.suffix)):
        return _checked([Job(photos[0], output or default.with_suffix(".png"))])
    folder = output or default
    if folder.is_file() or (folder.suffix and not folder.is_dir()):
        remedy = "Give --output a folder (a name without an ending)"
        raise InputError(folder, f"is one file for {len(photos)} photographs", remedy)
    names: dict[str, Path] = {}
    jobs = []
    for photo in photos:
        name = f"{photo.stem}_eyes.png"
        if name in names:
            name = f"{photo.name.replace('.', '_')}_eyes.png"
        number = 2
        while name in names:
            name, number = f"{photo.name.replace('.', '_')}_{number}_eyes.png", number + 1
        names[name] = photo
        jobs.append(Job(photo, folder / name))
    return _checked(jobs)


def _checked(jobs: list[Job]) -> list[Job]:
    photos = {job.photo.resolve() for job in jobs}
    for job in jobs:
        if job.result.resolve() in photos:
            problem = "is a photograph and would be overwritten by a result"
            raise InputError(job.result, problem, "Give another --output")
    return jobs


def run(predictor: Predictor, jobs: Sequence[Job], view: View) -> Iterator[Result | Failure]:
    """Segment photographs and write the results; yields in order, as they are done.

    Parameters
    ----------
    predictor
        The network.
    jobs
        From `plan`.
    view
        What to write.
    """
    waiting = iter(jobs)
    loading: deque[tuple[Job, Future[_Loaded]]] = deque()
    saving: deque[Future[Result | Failure]] = deque()
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        while True:
            for job in islice(waiting, 2 * _BATCH - len(loading)):
                loading.append((job, pool.submit(_load, job, predictor.spec.size, view)))
            if not loading:
                break
            batch: list[_Loaded] = []
            for job, decoded in [loading.popleft() for _ in range(min(_BATCH, len(loading)))]:
                try:
                    batch.append(decoded.result())
                except InputError as error:
                    yield Failure(job, str(error))
            if batch:
                planes = predictor.probabilities([loaded.square for loaded in batch])
                for loaded, plane in zip(batch, planes, strict=True):
                    saving.append(pool.submit(_save, loaded, plane, predictor.threshold, view))
            while len(saving) > _BATCH:
                yield saving.popleft().result()
        while saving:
            yield saving.popleft().result()


def _load(job: Job, size: int, view: View) -> _Loaded:
    try:
        data = job.photo.read_bytes()
    except OSError as error:
        raise DecodeError(job.photo, f"cannot be read ({error.strerror})", "Check it") from None
    square, geometry = decode_fitted(data, size, str(job.photo))
    photo = shrink(decode_rgb(data, str(job.photo))) if view.needs_photo else None
    return _Loaded(job, square, geometry, photo)


def _save(
    loaded: _Loaded, plane: npt.NDArray[np.float32], threshold: float, view: View
) -> Result | Failure:
    shape = loaded.photo.shape[:2] if loaded.photo is not None else None
    mask = loaded.geometry.restore(plane, shape) >= threshold
    try:
        save(draw(view, loaded.photo, mask), loaded.job.result)
    except OSError as error:
        problem = f"{loaded.job.result}: cannot be written ({error.strerror or error})"
        return Failure(loaded.job, problem)
    return Result(loaded.job, bool(mask.any()))

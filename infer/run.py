"""Many photographs: decoding, the network and writing overlap; one bad file stops nothing."""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from infer.output import View, draw, save
from infer.predictor import Prediction, Predictor
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
    """A photograph that was segmented; `eye_pixels` at its own size."""

    job: Job
    eye_pixels: int


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be read."""

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
        Where several results are to go into one file.
    """
    default = Path("eye_segmentation_result")
    if len(photos) == 1 and not (output and (output.is_dir() or not output.suffix)):
        return [Job(photos[0], output or default.with_suffix(".png"))]
    folder = output or default
    if folder.suffix and not folder.is_dir():
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
    saving: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(usable_cores()) as pool:
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
                predictions = predictor.predict_fitted(
                    [loaded.square for loaded in batch], [loaded.geometry for loaded in batch]
                )
                for loaded, prediction in zip(batch, predictions, strict=True):
                    saving.append(pool.submit(_save, loaded, prediction, view))
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
    photo = decode_rgb(data, str(job.photo)) if view.needs_photo else None
    return _Loaded(job, square, geometry, photo)


def _save(loaded: _Loaded, prediction: Prediction, view: View) -> Result:
    save(draw(view, loaded.photo, prediction.mask), loaded.job.result)
    return Result(loaded.job, int(prediction.mask.sum()))

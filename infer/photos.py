"""Which photographs are meant, and what the files of their results are called."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infer.output import View, check_suffix
from preprocess.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
STDIN = Path("-")
_DEFAULT = Path("eye_segmentation_result")


@dataclass(frozen=True)
class Job:
    """One photograph and where its results go.

    Attributes
    ----------
    photo
        The file; ``-`` is standard input.
    pictures
        What to draw, and the file it goes to.
    record
        The JSON file, if one is wanted.
    """

    photo: Path
    pictures: dict[View, Path] = field(default_factory=dict)
    record: Path | None = None

    @property
    def results(self) -> tuple[Path, ...]:
        """All files that are written (of `View.EYES` the name without number and side)."""
        return (*self.pictures.values(), *([self.record] if self.record else []))


def find_photos(inputs: Sequence[str], recursive: bool = False) -> dict[Path, Path]:
    """Turn files, folders and glob patterns into photographs, without repetitions.

    Parameters
    ----------
    inputs
        As the user gave them.
    recursive
        Look into the folders of folders, too.

    Returns
    -------
    dict
        Each photograph, and the subfolder that it comes from.

    Raises
    ------
    InputError
        If one of them names nothing.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if not given:
            raise InputError("--image", "is empty", "Give a photo, a folder or a pattern")
        if path.is_dir():
            inside = path.rglob("*") if recursive else path.iterdir()
            photos = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file())
            if not photos:
                endings = " ".join(sorted(SUFFIXES))
                raise InputError(path, "holds no photograph", f"Looked for {endings}")
            found |= {photo: photo.parent.relative_to(path) for photo in photos}
            continue
        if path.is_file() or path == STDIN:
            photos = [path]
        else:
            photos = sorted(Path(name) for name in glob.glob(given, recursive=True))  # noqa: PTH207  # absolute too
            photos = [p for p in photos if p.is_file()]
            if not photos:
                raise InputError(given, "does not exist", "Give a photo, a folder or a pattern")
        found |= dict.fromkeys(photos, Path())
    return found


def plan(
    photos: dict[Path, Path],
    output: Path | None,
    views: Sequence[View] = (View.PANEL,),
    *,
    json: bool = False,
    overwrite: bool = True,
    skip_existing: bool = False,
) -> list[Job]:
    """Name the results of each photograph.

    One photograph's only picture is `output` itself, or ``eye_segmentation_result.png``, which is
    replaced if it is there. Several fill a folder with ``{name}_eyes.png`` or, of several views,
    ``{name}_eyes_{view}.png``. ``{name}`` is the photograph's without its ending; photographs that
    would share it keep the ending (``party_jpg_eyes.png``), and get a number if even that is
    equal. JSON is named like the picture, ending in ``.json``.

    Parameters
    ----------
    photos
        From `find_photos`.
    output
        File or folder.
    views
        What to draw.
    json
        Whether to write JSON too.
    overwrite, skip_existing
        Whether files that exist may be replaced, or their photographs be left out.

    Raises
    ------
    InputError
        If several results are to go into one file, a result would replace a photograph or
        something that exists, or an ending does not fit.
    """
    alone = len(photos) == 1 and not (output and (output.is_dir() or not output.suffix))
    if alone:
        (photo,) = photos
        jobs = [_job(photo, output or _DEFAULT.with_suffix(".png"), views, json)]
    else:
        folder = output or _DEFAULT
        if folder.is_file() or (folder.suffix and not folder.is_dir()):
            remedy = "Give --output a folder (a name without an ending)"
            raise InputError(folder, f"is one file for {len(photos)} photographs", remedy)
        jobs = [
            _job(photo, folder / f"{name}_eyes.png", views, json)
            for photo, name in zip(photos, _names(photos), strict=True)
        ]
    for job in jobs:
        for view, path in job.pictures.items():
            check_suffix(path, view)
    if skip_existing:
        jobs = [job for job in jobs if not all(path.exists() for path in job.results)]
    _check(jobs, overwrite or skip_existing or output is None)
    return jobs


def _names(photos: dict[Path, Path]) -> list[str]:
    """Return each photograph's name in the output folder, without an ending; no two are alike."""
    plain = [(folder / photo.stem).as_posix() for photo, folder in photos.items()]
    shared = Counter(name.lower() for name in plain)
    names: list[str] = []
    taken: Counter[str] = Counter()
    for name, photo in zip(plain, photos, strict=True):
        if shared[name.lower()] > 1:
            name = f"{name}_{photo.suffix.lstrip('.')}"
        taken[name.lower()] += 1
        number = taken[name.lower()]
        names.append(name if number == 1 else f"{name}_{number}")
    return names


def _job(photo: Path, base: Path, views: Sequence[View], json: bool) -> Job:
    pictures = {views[0]: base} if len(views) == 1 else {
        view: base.with_name(f"{base.stem}_{view}{base.suffix}") for view in views
    }  # fmt: skip
    return Job(photo, pictures, base.with_suffix(".json") if json else None)


def _check(jobs: list[Job], overwrite: bool) -> None:
    photos = {job.photo.resolve() for job in jobs}
    for job in jobs:
        for result in job.results:
            if result.resolve() in photos:
                problem = "is a photograph and would be overwritten by a result"
                raise InputError(result, problem, "Give another --output")
    there = [path for job in jobs for path in job.results if path.is_file()]
    if there and not overwrite:
        others = f" (and {len(there) - 1} other results)" if len(there) > 1 else ""
        remedy = "Add --overwrite to replace or --skip-existing to leave, or give another --output"
        raise InputError(there[0], f"exists already{others}", remedy)

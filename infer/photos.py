"""Which photographs are meant, and what the files of their results are called."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infer.output import View
from preprocess.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


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

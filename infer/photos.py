"""Which photographs are meant, and what the files of their results are called."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePath

from infer.output import View, check_suffix
from preprocess.errors import InputError
from preprocess.files import unfinished
from preprocess.storage import Place, Remote

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
STDIN = Path("-")
# Endings of results: other hidden files in a user's folder are not ours.
_RESULTS = {".png", ".jpg", ".jpeg", ".webp", ".json", ".jsonl", ".csv", ".mp4", ".mov", ".mkv"}
_DEFAULT = Path("eye_segmentation_result")


@dataclass(frozen=True)
class Job:
    """One photograph and where its results go."""

    photo: Path  # or STDIN
    pictures: dict[View, Path]  # of `View.EYES` the name without number and side
    record: Path | None  # JSON

    @property
    def results(self) -> list[Path]:
        """All files that are written."""
        return [*self.pictures.values(), *([self.record] if self.record else [])]


def find_photos(inputs: Iterable[str], recursive: bool = False) -> dict[Path, Path]:
    """Turn files, folders and glob patterns into photographs, without repetitions.

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
            photos = sorted(map(Path, photos_in(path, recursive)))
            found |= {photo: photo.parent.relative_to(path) for photo in photos}
            continue
        if path == STDIN or path.exists() or path.is_symlink():
            photos = [path]
        else:
            matching = sorted(map(Path, glob.glob(given, recursive=True)))  # noqa: PTH207  # absolute too
            photos = [p for p in matching if p.suffix.lower() in SUFFIXES or not p.is_dir()]
        if not photos:
            raise InputError(given, "does not exist", "Give a photo, a folder or a pattern")
        found |= dict.fromkeys(photos, Path())
    return found


def photos_in(folder: Place, recursive: bool = False) -> Iterator[str]:
    """Yield the photographs in a folder, as text: there may be millions.

    Those in object storage come in order. An `InputError` if there is none.
    """
    if isinstance(folder, Remote):
        depth = folder.count("/") + 1
        inside: Iterable[str] = (p for p, *_ in folder.walk() if recursive or p.count("/") == depth)
    elif recursive:
        inside = (str(Path(path, name)) for path, _, names in os.walk(folder) for name in names)
    else:  # a folder that is named like a photograph is an error by and by
        inside = (str(folder / entry.name) for entry in os.scandir(folder))
    found = False
    for photo in inside:
        if PurePath(photo).suffix.lower() in SUFFIXES:
            found = True
            yield photo
    if not found:
        endings = " ".join(sorted(SUFFIXES))
        raise InputError(folder, "holds no photograph", f"Looked for {endings}")


def plan(
    photos: dict[Path, Path],
    output: Path | None,
    views: Sequence[View] = (View.PANEL,),
    *,
    json: bool = False,
    overwrite: bool = True,
    skip_existing: bool = False,
) -> list[Job]:
    """Name the results of photographs, as docs/inference.md says.

    Parameters
    ----------
    output
        File or folder; None is ``eye_segmentation_result.png``, or the folder of that name.
    json
        Whether to write JSON too, named like the picture.
    overwrite, skip_existing
        Whether files that exist may be replaced, or their photographs be left out.

    Raises
    ------
    InputError
        If several results are to go into one file, a result would replace a photograph or
        something that exists, or an ending does not fit.
    """
    if len(photos) == 1 and not (output and (output.is_dir() or not output.suffix)):
        bases = [output or _DEFAULT.with_suffix(".png")]
    else:
        folder = output or _DEFAULT
        if folder.is_file() or (folder.suffix and not folder.is_dir()):
            remedy = "Give --output a folder (a name without an ending)"
            raise InputError(folder, f"is one file for {len(photos)} photographs", remedy)
        bases = [folder / f"{name}_eyes.png" for name in _names(photos)]
    jobs = []
    for photo, base in zip(photos, bases, strict=True):
        pictures = {view: base.with_name(f"{base.stem}_{view}{base.suffix}") for view in views}
        if len(views) == 1:
            pictures = {views[0]: base}
        for view, path in pictures.items():
            check_suffix(path, view)
        jobs.append(Job(photo, pictures, base.with_suffix(".json") if json else None))
    if skip_existing:
        jobs = [job for job in jobs if not all(map(_is_there, job.results))]
    results = [path for job in jobs for path in job.results]
    check_results(photos, results, overwrite or skip_existing or output is None)
    return jobs


def _names(photos: dict[Path, Path]) -> list[str]:
    """Return each photograph's name in the output folder, without an ending; no two are alike."""
    plain = [(folder / photo.stem).as_posix() for photo, folder in photos.items()]
    shared = Counter(name.lower() for name in plain)
    names: dict[str, str] = {}
    for name, photo in zip(plain, photos, strict=True):
        if shared[name.lower()] > 1:
            name = f"{name}_{photo.suffix.lstrip('.')}"
        numbered = (f"{name}_{number}" for number in count(2))
        free = next(n for n in chain([name], numbered) if n.lower() not in names)
        names[free.lower()] = free
    return list(names.values())


def check_results(sources: Iterable[Path], results: Sequence[Path], overwrite: bool) -> None:
    """Raise an `InputError` if a result would replace a source, or something that exists."""
    own = {os.path.realpath(source) for source in sources}  # pathlib fails on a loop of links
    for result in results:
        if os.path.realpath(result) in own:
            problem = "is what is to be segmented, and would be overwritten by a result"
            raise InputError(result, problem, "Give another --output")
    there = [path for path in results if _is_there(path)]
    if there and not overwrite:
        others = f" (and {len(there) - 1} other results)" if len(there) > 1 else ""
        remedy = "Add --overwrite, or give another --output (--skip-existing: do the other photos)"
        raise InputError(there[0], f"exists already{others}", remedy)


def remove_leftovers(results: Iterable[Path]) -> None:
    """Remove what a killed process left in the folders of results: hidden, half-written files.

    Only the command line may do so, as long as it writes nothing itself: containers give each
    process the number of the one before.
    """
    for folder in {path.parent for path in results}:
        for path, name, process in unfinished(folder):
            if Path(name).suffix.lower() in _RESULTS and not _is_running(process):
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Return whether another process of this number runs."""
    if sys.platform == "win32":
        return True  # there `os.kill` would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no file has a name as long as that: writing it will fail, and say so
        return False

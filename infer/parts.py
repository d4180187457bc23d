"""Rows for millions of photographs: a folder of Parquet files, of which each is a unit of work.

A worker takes a whole part of the list of photographs: it reads them, segments them, and writes
their rows to a file that appears when it is complete. Its metadata says what it was made from. A
later run takes a part as done if it has the digest of the plan; so a run that was killed loses the
parts that it was at, no others. Photographs and parts may be in object storage.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from infer.network import weights_file
from infer.output import Prediction
from infer.photos import find_photos, photos_in
from infer.predictor import Faces, Predictor
from infer.record import COLUMNS, eye_rows
from infer.run import predict_file, remark
from preprocess import __version__
from preprocess.engine import by_workers
from preprocess.errors import InputError
from preprocess.files import LOCK, MAX_MEGAPIXELS, atomic_file, locked, read_file, remove_unfinished
from preprocess.plan import samples_per_shard
from preprocess.storage import Place, Remote, each, place

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:
    remedy = "pip install '.[parquet]', or pip install pyarrow"
    raise InputError("--parquet", "needs pyarrow, which is not installed", remedy) from None

SCHEMA = "eye-segmentation-rows/1"
NO_EYE = "no open eye was found"
_TYPES = {"photo": "string", "face": "int32", "side": "string", "area": "int32",
          "problem": "string"}  # fmt: skip
_SCHEMA = pyarrow.schema([(name, _TYPES.get(name, "float64")) for name in (*COLUMNS, "problem")])
_Row = tuple[str | float | None, ...]
_METADATA = b"eye_segmentation"
_MOST = 1024  # photographs in a part; of fewer than 32,768 smaller parts, so that all cores work
_AT_ONCE = 8  # photographs that a worker reads from object storage at a time
_NAME = re.compile(r"part-[0-9]{6,}\.parquet")


@dataclass(frozen=True)
class PartsConfig:
    """Where the parts go, and what decides their rows besides the photographs."""

    out: Place
    model: Path | None = None  # None: the weights in the package
    device: str = "auto"
    faces: Faces = "auto"
    max_megapixels: float = MAX_MEGAPIXELS

    def facts(self) -> dict[str, Any]:
        """Return what two runs have to have in common to share a folder."""
        weights = hashlib.sha256(read_file(weights_file(self.model, self.device))).hexdigest()
        return {"schema": SCHEMA, "version": __version__, "weights": weights, "faces": self.faces,
                "max_megapixels": self.max_megapixels}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A part before it is done."""

    name: str
    digest: str  # of the facts and the photographs
    count: int
    packed: bytes  # the photographs, compressed: a plan holds millions

    @classmethod
    def of(cls, number: int, photos: list[str], facts: dict[str, Any]) -> Part:
        """Plan a part."""
        text = "\0".join(photos).encode(errors="surrogateescape")
        digest = hashlib.sha256(json.dumps([number, facts]).encode() + text).hexdigest()
        return cls(f"part-{number:06d}.parquet", digest, len(photos), zlib.compress(text))

    def photos(self) -> list[str]:
        """Return paths or URLs."""
        return zlib.decompress(self.packed).decode(errors="surrogateescape").split("\0")


@dataclass(frozen=True)
class Count:
    """What became of photographs."""

    photos: int = 0
    eyes: int = 0
    failed: int = 0
    unread: int = 0  # of the failed, those that another run should try again

    def __add__(self, other: Count) -> Count:
        return Count(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def list_photos(inputs: list[str], recursive: bool) -> Iterable[str]:
    """Return photographs in order; an `InputError` if there is none."""
    if len(inputs) == 1 and inputs[0]:
        folder = place(inputs[0])
        if isinstance(folder, Remote):  # comes in order: nobody has to hold all of it
            return photos_in(folder, recursive)
        if folder.is_dir():
            return sorted(photos_in(folder, recursive))
    return sorted(map(str, find_photos(inputs, recursive)))


def cut(photos: Iterable[str], facts: dict[str, Any]) -> dict[str, Part]:
    """Cut the list of photographs into parts."""
    photos = iter(photos)
    first = list(islice(photos, 64 * _MOST))  # more have parts of full size
    size, photos = samples_per_shard(len(first), _MOST), chain(first, photos)
    slices = iter(lambda: list(islice(photos, size)), [])
    parts = (Part.of(number, some, facts) for number, some in enumerate(slices))
    return {part.name: part for part in parts}


def write_parts(
    config: PartsConfig, inputs: list[str], recursive: bool = False, workers: int | None = None,
    overwrite: bool = False, ray: str | None = None,
) -> Iterator[tuple[Count, int]]:  # fmt: skip
    """Do the parts that are missing; yield what is done so far, and how many photographs there are.

    Parameters
    ----------
    inputs
        Files, folders and patterns, or one ``s3://`` or ``gs://`` URL of a folder.
    workers
        Processes; None takes one a core, 1 works in this one.
    overwrite
        Whether parts of other photographs, weights or settings may be removed.
    ray
        Address of a Ray cluster that does the work, "local" to start one; None: processes here.

    Raises
    ------
    InputError
        If there is no photograph, the weights cannot be used, storage cannot be reached, or `out`
        holds other parts. A photograph that cannot be read is a row.
    """
    facts = config.facts()
    parts = cut(list_photos(inputs, recursive), facts)
    total = sum(part.count for part in parts.values())
    with locked(config.out):
        remove_unfinished(config.out)
        done = _finished(config.out, parts, facts, overwrite)
        missing = [part for name, part in parts.items() if name not in done]
        count = sum(done.values(), Count())
        yield count, total
        job = partial(write_part, config, facts)
        places = (config.out / LOCK, *map(place, inputs))
        for one in by_workers(job, missing, workers, ray, places):
            count += one
            yield count, total


def _finished(
    out: Place, parts: dict[str, Part], facts: dict[str, Any], overwrite: bool
) -> dict[str, Count]:
    """Return which parts are there; remove those of another run, or raise an `InputError`."""
    paths = sorted(path for path in out.glob("part-*.parquet") if _NAME.fullmatch(path.name))
    done, others = {}, []
    for path, known in zip(paths, each(out, _known, paths), strict=True):
        part = parts.get(path.name)
        if part is None or known.get("digest") != part.digest:
            others.append((path, known))
        elif not known["count"]["unread"]:
            done[path.name] = Count(**known["count"])
    if others and not overwrite:
        path, known = others[0]
        other = [name for name, value in facts.items() if known.get(name) != value]
        problem = f"is of a run with other {', '.join(other) or 'photographs'}"
        remedy = "Give another --parquet, or --overwrite to replace such parts"
        raise InputError(path, problem, remedy)
    for path, _ in others:
        path.unlink()
    return done


def _known(path: Place) -> dict[str, Any]:
    """Return what a part says of itself; nothing if it is none."""
    try:
        with path.open("rb") as file:
            return dict(json.loads(parquet.read_schema(file).metadata[_METADATA]))
    except InputError:  # storage that cannot be reached
        raise
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):
        return {}


def write_part(config: PartsConfig, facts: dict[str, Any], part: Part) -> Count:
    """Segment the photographs of a part and write their rows: the work of one process."""
    predictor = _predictor(config.model, config.device, config.max_megapixels)
    photos, rows, count = part.photos(), list[_Row](), Count()
    read = each(_place(photos[0]), _read, photos, _AT_ONCE)
    for photo, data in zip(photos, read, strict=True):
        try:
            if isinstance(data, InputError):
                raise data
            some, eyes = _rows(predict_file(predictor, config.faces, photo, data), _text(photo))
            count += Count(1, eyes)
        except InputError as error:
            some = [_no_eye(_text(photo), _text(str(error)))]
            count += Count(1, failed=1, unread=int(error is data))
        rows += some
    said = json.dumps(facts | {"digest": part.digest, "count": asdict(count)})
    schema = _SCHEMA.with_metadata({_METADATA: said})
    table = pyarrow.table([list(column) for column in zip(*rows, strict=True)], schema=schema)
    with atomic_file(config.out / part.name) as file:
        parquet.write_table(table, file, compression="zstd")
    return count


@lru_cache(maxsize=1)  # a process loads the network once
def _predictor(model: Path | None, device: str, max_megapixels: float) -> Predictor:
    return Predictor.from_checkpoint(model, device, 1, max_megapixels)


def _rows(prediction: Prediction, name: str) -> tuple[list[_Row], int]:
    """Return the rows of a photograph, and how many eyes it has."""
    eyes = [(*row, None) for row in eye_rows(name, prediction.faces)]
    return eyes or [_no_eye(name, remark(prediction) or NO_EYE)], len(eyes)


def _no_eye(name: str, problem: str) -> _Row:
    return (name, *[None] * (len(COLUMNS) - 1), problem)


def _place(photo: str) -> Place:
    return Remote(photo) if "://" in photo else Path(photo)  # no path has two slashes in a row


def _read(photo: str) -> bytes | InputError:
    """Read a photograph, or return why not; raise if its server does not even list."""
    path = _place(photo)
    try:
        return read_file(path)
    except InputError as error:
        if isinstance(path, Remote):
            next(Remote(path.rpartition("/")[0]).walk(), None)
        return error


def _text(name: str) -> str:
    r"""Return a name as UTF-8 can hold it: a byte that is none becomes ``\xff``."""
    return os.fsencode(name).decode(errors="backslashreplace")

"""Predictions as JSON and CSV: schema ``eye-segmentation/1``, described in docs/json.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infer.eyes import Face
from preprocess.files import atomic_file

SCHEMA = "eye-segmentation/1"
_SHARES = {"score", "openness", "probability"}
COLUMNS = ("photo", "face", "side", "x", "y", "width", "height", "centre_x", "centre_y", "area",
            "openness", "probability")  # fmt: skip
_Row = tuple[str | float, ...]


def describe(face: Face) -> dict[str, Any]:
    """Return a face as plain figures: hundredths of a pixel, four places of what is 0..1."""
    described: dict[str, Any] = _rounded(asdict(face))
    return described


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: round(item, 4) if key in _SHARES and item is not None else _rounded(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


def to_line(record: dict[str, Any]) -> bytes:
    """Return a record as a line of compact JSON."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def eye_rows(name: str, faces: Iterable[Face]) -> Iterator[_Row]:
    """Yield the columns of each eye of a photograph."""
    for number, face in enumerate(faces, start=1):
        for eye in describe(face)["eyes"]:
            yield (name, number, eye["side"], *eye["box"], *eye["centre"], eye["area"],
                   eye["openness"], eye["probability"])  # fmt: skip


@contextmanager
def writing_table(path: Path) -> Iterator[Callable[[str, tuple[Face, ...]], None]]:
    """Write a CSV with a row for each eye; hands out what adds a photograph (name and faces)."""
    with atomic_file(path) as file:

        def write(rows: Iterable[Iterable[Any]]) -> None:
            text = io.StringIO()
            csv.writer(text).writerows(rows)
            file.write(text.getvalue().encode(errors="surrogateescape"))  # names as on disk

        write([COLUMNS])
        yield lambda name, faces: write(eye_rows(name, faces))

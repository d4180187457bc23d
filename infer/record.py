"""Predictions as JSON and CSV: schema ``eye-segmentation/1``, described in docs/json.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infer.eyes import Face
from preprocess.files import atomic_file

SCHEMA = "eye-segmentation/1"
_SHARES = {"score", "openness", "probability"}
_COLUMNS = ("photo", "face", "side", "x", "y", "width", "height", "centre_x", "centre_y", "area",
            "openness", "probability")  # fmt: skip


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


def save_table(photos: Iterable[tuple[str, tuple[Face, ...]]], path: Path) -> None:
    """Write a CSV with a row for each eye of each photograph (name and faces)."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    for name, faces in photos:
        for number, face in enumerate(faces, start=1):
            for eye in describe(face)["eyes"]:
                shares = (eye["openness"], eye["probability"])
                table.writerow([name, number, eye["side"], *eye["box"], *eye["centre"],
                                eye["area"], *shares])  # fmt: skip
    with atomic_file(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # names as they are on disk

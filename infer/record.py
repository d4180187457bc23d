"""A prediction as JSON: schema ``eye-segmentation/1``, described in docs/json.md."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infer.predictor import Prediction
from preprocess.files import atomic_file

SCHEMA = "eye-segmentation/1"


def to_record(prediction: Prediction, photo: str) -> dict[str, Any]:
    """Return plain numbers, lists and dictionaries.

    Parameters
    ----------
    prediction
        Of one photograph.
    photo
        The photograph's name.
    """
    height, width = prediction.probability.shape
    return {
        "schema": SCHEMA,
        "photo": photo,
        "width": width,
        "height": height,
        "threshold": prediction.threshold,
        "warning": prediction.warning,
        "faces": [_rounded(asdict(face)) for face in prediction.faces],
    }


def _rounded(value: Any) -> Any:
    """Keep a hundredth of a pixel, and four places of what is 0..1."""
    if isinstance(value, dict):
        return {
            key: round(item, 4) if key in _SHARES and item is not None else _rounded(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


_SHARES = {"score", "openness", "probability"}


def save_record(record: dict[str, Any], path: Path) -> None:
    """Write a record, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(record, indent=1).encode() + b"\n")

"""Find the eyes in any photograph.

>>> from infer import Predictor
>>> prediction = Predictor.bundled().predict("photo.jpg")
>>> prediction.mask, prediction.eyes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from preprocess import __version__

if TYPE_CHECKING:
    from infer.output import Prediction
    from infer.predictor import Predictor

__all__ = ["Prediction", "Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the predictor only when it is asked for, so that ``--help`` is instant."""
    if name in {"Prediction", "Predictor"}:
        from infer import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'infer' has no attribute {name!r}")

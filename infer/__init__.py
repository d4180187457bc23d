"""Find the eyes in any photograph.

>>> from infer import Predictor
>>> predictor = Predictor.from_checkpoint("output/eye_segmentation_model.pth")
>>> prediction = predictor.predict(rgb)  # H x W x 3 uint8 -> H x W mask
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infer.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> Any:
    """Import torch only when the predictor is asked for, so that ``--help`` is instant."""
    if name in __all__:
        from infer import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'infer' has no attribute {name!r}")

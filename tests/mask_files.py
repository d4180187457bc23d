"""What several tests of inference do with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        levels = np.asarray(picture)
    assert set(np.unique(levels).tolist()) <= {0, 255}
    return levels > 0

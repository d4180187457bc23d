"""A trained network behind a plain function: RGB array in, eye mask out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from preprocess.errors import InputError
from preprocess.image import RGB, fit
from train.checkpoint import Checkpoint
from train.decode import normalise
from train.distributed import resolve_device
from train.model import fold_batch_norm, to_channels_last


@dataclass(frozen=True)
class Prediction:
    """Where the eyes of one photograph are.

    Attributes
    ----------
    probability
        H x W float32, 0..1, at the photograph's own size.
    threshold
        Probability from which a pixel is an eye.
    """

    probability: npt.NDArray[np.float32]
    threshold: float

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """H x W bool, True where an eye is."""
        return self.probability >= self.threshold


class Predictor:
    """Segments the eyes of photographs; holds no state between calls.

    Parameters
    ----------
    checkpoint
        Weights, input specification and threshold.
    device
        "auto", "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.spec = checkpoint.spec
        self.threshold = checkpoint.threshold
        self._model = to_channels_last(fold_batch_norm(checkpoint.build()), self.device)

    @classmethod
    def from_checkpoint(cls, path: str | PathLike[str], device: str = "auto") -> Predictor:
        """Load a checkpoint that `train` wrote.

        Raises
        ------
        InputError
            Where the file is missing, damaged or no such checkpoint, or the device is not there.
        """
        return cls(Checkpoint.load(Path(path)), device)

    def predict(self, rgb: RGB) -> Prediction:
        """Segment one photograph.

        Parameters
        ----------
        rgb
            H x W x 3, uint8, RGB, upright, of any size.

        Raises
        ------
        InputError
            Where the array is of another shape or type.
        """
        shape_is_right = rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size > 0
        if not shape_is_right or rgb.dtype != np.uint8:
            problem = f"is an array of shape {rgb.shape} and type {rgb.dtype}"
            raise InputError("rgb", problem, "Expected H x W x 3, uint8")
        square, geometry = fit(rgb, self.spec.size)
        return Prediction(geometry.restore(self.probabilities([square])[0]), self.threshold)

    @torch.inference_mode()
    def probabilities(self, squares: Sequence[RGB]) -> npt.NDArray[np.float32]:
        """Run the network on photographs that `preprocess.image` fitted to squares, as one batch.

        Parameters
        ----------
        squares
            Each size x size x 3, uint8, RGB (`spec.size`).

        Returns
        -------
        numpy.ndarray
            N x size x size, float32, 0..1; `Geometry.restore` leads back to the photographs.
        """
        images = normalise(np.stack(squares), self.spec).to(self.device)
        probability: npt.NDArray[np.float32] = self._model(images).sigmoid()[:, 0].cpu().numpy()
        return probability

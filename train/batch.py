"""What a loader is given, and what it yields."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.cache import SampleCache
from train.config import AugmentConfig, Window
from train.decode import InputSpec
from train.order import SplitOrder


@dataclass(frozen=True)
class Batch:
    """What every loader yields.

    Attributes
    ----------
    images
        N x 3 x H x W float32, normalised, channels_last, on the loader's device.
    masks
        N x 1 x H x W float32, 1 where an eye is, else 0.
    keys
        The samples' keys, in order.
    """

    images: torch.Tensor
    masks: torch.Tensor
    keys: tuple[str, ...]


@dataclass(frozen=True)
class LoaderConfig:
    """Everything a loader needs.

    Attributes
    ----------
    order
        Which samples, in which batches.
    spec
        Size and normalisation.
    augment
        Strengths; `AugmentConfig.off()` in evaluation.
    device
        Where the batches go; DALI decodes there too.
    threads
        Decoding threads.
    window
        Size of the parts to train on; None takes whole pictures.
    cache
        Where decoded samples are kept; None decodes them every time.
    hardware_share
        Share of a batch's JPEGs that a GPU's own decoder takes, where it has one; the CUDA cores
        take the rest (DALI's `hw_decoder_load`).
    whole_graph
        Augment and normalise in DALI's graph on a CPU too, as on a GPU. Slower: its CPU operators
        take three times as long as OpenCV's.
    """

    order: SplitOrder
    spec: InputSpec
    augment: AugmentConfig
    device: torch.device
    threads: int = 2
    window: Window | None = None
    cache: SampleCache | None = None
    hardware_share: float = 0.9
    whole_graph: bool = False

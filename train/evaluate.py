"""Evaluate a model on a split: every sample counted once."""

from __future__ import annotations

import time
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from preprocess.errors import InputError
from train.batch import LoaderConfig
from train.calibration import LogitHistogram, logit_counts
from train.checkpoint import Checkpoint
from train.config import AugmentConfig
from train.distributed import Processes, join_processes
from train.loader import Loader, decoding_threads, open_loader, read_spec
from train.loss import bce_dice
from train.metrics import Metrics, image_iou, metrics_of, pixel_counts
from train.order import SplitOrder


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split, its mean loss, each picture's IoU by key, and its pixels by logit."""

    metrics: Metrics
    loss: float
    iou: dict[str, float]
    images_per_second: float
    histogram: LogitHistogram

    def ranked(self) -> list[str]:
        """Return the keys of the pictures from the lowest IoU to the highest."""
        return sorted(self.iou, key=lambda key: (self.iou[key], key))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    threshold: float = 0.5,
    processes: Processes | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run a model over a split.

    Parameters
    ----------
    model
        In evaluation mode, on the loader's device.
    loader
        Opened without shuffling and augmentation.
    threshold
        Probability from which a pixel is an eye.
    processes
        The group that shares the work; counts are joined, so all get the same figures.
    progress
        Show a bar where the output is a terminal.
    """
    processes = processes or Processes()
    counts: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    pixels = logit_counts(torch.zeros(0), torch.zeros(0))
    keys: list[str] = []
    started = time.perf_counter()
    quiet = None if progress and processes.is_first else True
    bar: Any = tqdm(loader.epoch(0), total=loader.steps, unit="batch", desc="evaluate",
                    disable=quiet, leave=False)  # fmt: skip
    for batch in bar:
        logits = model(batch.images)
        counts.append(pixel_counts(logits, batch.masks, threshold))
        losses.append(bce_dice(logits, batch.masks) * len(batch.keys))
        pixels = pixels.to(logits.device) + logit_counts(logits, batch.masks)
        keys += batch.keys
    none = torch.zeros((0, 4), dtype=torch.int64)
    joined = processes.gather(torch.cat(counts).cpu() if counts else none)
    loss = processes.gather(torch.stack(losses).cpu() if losses else torch.zeros(0)).sum()
    pixels = processes.gather(pixels.cpu()[None]).sum(dim=0)
    names = processes.gather_list(keys)
    seconds = time.perf_counter() - started
    iou = dict(zip(names, image_iou(joined).tolist(), strict=True))
    mean_loss = float(loss) / max(1, len(joined))
    return Evaluation(
        metrics_of(joined), mean_loss, iou, len(joined) / seconds, LogitHistogram(pixels.numpy())
    )


def calibrate(checkpoint: Checkpoint, loader: Loader, device: torch.device) -> Checkpoint:
    """Correct the probabilities of a model on val, and choose its threshold there.

    The correction (`train.calibration.Correction`) goes into the weights. A
    checkpoint that has been through this comes back as it is.

    Parameters
    ----------
    checkpoint
        A trained model.
    loader
        The val split, whole, without shuffling and augmentation.
    device
        The loader's.
    """
    if checkpoint.calibration:
        return checkpoint
    before = evaluate(checkpoint.build().to(device), loader, progress=False).histogram
    correction = before.fit()
    calibration = torch.tensor(list(astuple(correction)), device=device)
    changed = replace(checkpoint, weights=checkpoint.weights | {"calibration": calibration})
    model = changed.build().to(device)
    after = evaluate(model, loader, progress=False).histogram
    threshold = after.best_threshold()
    metrics = evaluate(model, loader, threshold=threshold, progress=False).metrics
    return replace(
        changed,
        threshold=threshold,
        metrics=metrics.to_dict(),
        calibration={
            **asdict(correction),
            "error_before": before.reliability().error_unsure,
            "error": after.reliability().error_unsure,
        },
    )


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation and what it was made with (`loader` covers the whole split)."""

    evaluation: Evaluation
    checkpoint: Checkpoint
    model: nn.Module
    loader: Loader
    processes: Processes


def evaluate_checkpoint(
    model_path: Path,
    shards: Path,
    split: str,
    *,
    batch: int = 16,
    loader: str = "auto",
    threads: int | None = None,
    device: str = "auto",
) -> EvaluationRun:
    """Evaluate a checkpoint file on a split of a pack; alone or under `torchrun`.

    Raises
    ------
    InputError
        Where checkpoint, pack, split or device are missing or do not fit together.
    """
    with join_processes(device) as (processes, chosen):
        checkpoint = Checkpoint.load(model_path, chosen)
        model = checkpoint.build().to(chosen)
        spec = checkpoint.spec
        if read_spec(shards).size != spec.size:
            problem = f"holds {read_spec(shards).size}-pixel squares, the model wants {spec.size}"
            raise InputError(shards, problem, f"Pack with --size {spec.size}")

        def open_for(rank: int, world: int) -> Loader:
            order = SplitOrder.read(shards, split, batch, shuffle=False, rank=rank, world=world)
            settings = LoaderConfig(
                order, spec, AugmentConfig.off(), chosen, decoding_threads(threads)
            )
            return open_loader(settings, loader)

        evaluation = evaluate(
            model,
            open_for(processes.rank, processes.world),
            threshold=checkpoint.threshold,
            processes=processes,
        )
        return EvaluationRun(evaluation, checkpoint, model, open_for(0, 1), processes)

"""Plots, picture grids and tables of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from preprocess.grid import GREEN, RED, grey_to_rgb, grid, outline, save_png
from preprocess.shards import atomic_file
from train.checkpoint import Checkpoint
from train.decode import denormalise
from train.evaluate import Evaluation
from train.loader import Loader
from train.run_folder import EpochRecord


def plot_history(history: Sequence[EpochRecord], path: Path) -> None:
    """Draw loss, val figures and speed over the epochs."""
    from matplotlib.figure import Figure

    epochs = [record.epoch for record in history]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    loss, score, speed = figure.subplots(1, 3)
    loss.plot(epochs, [record.loss for record in history], label="train")
    loss.plot(epochs, [record.val_loss for record in history], label="val")
    loss.set(title="loss (cross-entropy + 1 - Dice)", xlabel="epoch", yscale="log")
    for name, label in (("val_f1", "F1"), ("val_iou", "IoU"), ("val_mean_iou", "mean IoU")):
        score.plot(epochs, [getattr(record, name) for record in history], label=label)
    best = max(history, key=lambda record: record.val_f1)
    score.set(title=f"val: best F1 {best.val_f1:.4f}, epoch {best.epoch}", xlabel="epoch")
    speed.plot(epochs, [record.images_per_second for record in history], label="images/s")
    speed.set(title="training speed", xlabel="epoch", ylim=(0, None))
    for axes in (loss, score, speed):
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def save_predictions(
    model: nn.Module, loader: Loader, checkpoint: Checkpoint, path: Path, count: int = 12
) -> None:
    """Draw the first samples of a split: photograph, truth, prediction, both outlines."""
    pictures, captions = [], []
    for key, image, truth, predicted in _predictions(model, loader, checkpoint, None, count):
        both = outline(outline(image, truth, GREEN), predicted, RED)
        pictures += [image, grey_to_rgb(truth), grey_to_rgb(predicted), both]
        captions += [key, "truth", "prediction", "truth green, prediction red"]
    save_png(grid(pictures, 8, captions), path)


def save_worst(
    model: nn.Module, loader: Loader, checkpoint: Checkpoint, evaluation: Evaluation, path: Path,
    count: int = 16,
) -> None:  # fmt: skip
    """Draw the pictures with the lowest IoU, worst first: truth green, prediction red."""
    worst = evaluation.worst(count)
    drawn = {
        key: outline(outline(_double(image), _double(truth), GREEN), _double(predicted), RED)
        for key, image, truth, predicted in _predictions(model, loader, checkpoint, worst, count)
    }
    captions = [f"{key}  IoU {evaluation.iou[key]:.3f}" for key in worst]
    save_png(grid([drawn[key] for key in worst], 4, captions), path)


def _double(plane: Any) -> Any:
    """Enlarge twice, so that two outlines on an eye 20 pixels wide can be told apart."""
    return plane.repeat(2, axis=0).repeat(2, axis=1)


@torch.inference_mode()
def _predictions(
    model: nn.Module,
    loader: Loader,
    checkpoint: Checkpoint,
    keys: list[str] | None,
    count: int,
) -> list[tuple[str, Any, Any, Any]]:
    """Return (key, RGB, truth, prediction) of the first `count` samples, or of those named."""
    found: list[tuple[str, Any, Any, Any]] = []
    for batch in loader.epoch(0):
        rows = [row for row, key in enumerate(batch.keys) if keys is None or key in keys]
        if not rows:
            continue
        images = batch.images[rows]
        marked = model(images).float().sigmoid() >= checkpoint.threshold
        squares = denormalise(images, checkpoint.spec)
        for place, row in enumerate(rows):
            planes = (batch.masks[row, 0] > 0, marked[place, 0])
            truth, predicted = (plane.cpu().numpy().astype(np.uint8) * 255 for plane in planes)
            found.append((batch.keys[row], squares[place], truth, predicted))
        if len(found) >= count:
            break
    return found[:count]


def table(evaluation: Evaluation) -> str:
    """Format an evaluation for people."""
    figures = evaluation.metrics
    rows = [
        ("images", f"{figures.images} ({figures.images_without_eyes} without eyes)"),
        ("F1, both eyes merged", f"{figures.f1:.4f}"),
        ("IoU, both eyes merged", f"{figures.iou:.4f}"),
        ("mean IoU per image", f"{figures.mean_iou:.4f}"),
        ("precision", f"{figures.precision:.4f}"),
        ("recall", f"{figures.recall:.4f}"),
        (
            "false pixels, no eye",
            f"{figures.false_positive_pixels} ({figures.false_positive_share:.4%})",
        ),
        ("loss", f"{evaluation.loss:.4f}"),
        ("images/s", f"{evaluation.images_per_second:.1f}"),
    ]
    return "\n".join(f"{name:<24}{value}" for name, value in rows)


def save_evaluation(evaluation: Evaluation, context: dict[str, str], path: Path) -> None:
    """Write an evaluation as JSON, each picture's IoU included."""
    content = {**context, **asdict(evaluation)}
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")

"""Plots, picture grids and tables of a run."""

from __future__ import annotations

import json
import sys
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
from train.stress import STRENGTHS, StressReport


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
    for key, image, truth, predicted in _predictions(model, loader, checkpoint, count=count):
        both = outline(outline(image, truth, GREEN), predicted, RED)
        pictures += [image, grey_to_rgb(truth), grey_to_rgb(predicted), both]
        captions += [key, "truth", "prediction", "truth green, prediction red"]
    save_png(grid(pictures, 8, captions), path)


def save_examples(
    model: nn.Module, loader: Loader, checkpoint: Checkpoint, evaluation: Evaluation,
    folder: Path, name: str, count: int = 16,
) -> list[Path]:  # fmt: skip
    """Draw the worst, the median and the best pictures by IoU, each as a grid of close-ups.

    Truth is outlined in green, the prediction in red. Returns the files.
    """
    ranked = evaluation.ranked()
    count = min(count, len(ranked))
    middle = (len(ranked) - count) // 2
    groups = {
        "worst": ranked[:count],
        "median": ranked[middle : middle + count],
        "best": ranked[::-1][:count],
    }
    wanted = {key for keys in groups.values() for key in keys}
    drawn = {
        key: _close_up(image, truth, predicted)
        for key, image, truth, predicted in _predictions(model, loader, checkpoint, wanted)
    }
    paths = []
    for group, keys in groups.items():
        captions = [f"{key}  IoU {evaluation.iou[key]:.3f}" for key in keys]
        paths.append(folder / f"{group}_{name}.png")
        save_png(grid([drawn[key] for key in keys], 4, captions), paths[-1])
    return paths


def _close_up(image: Any, truth: Any, predicted: Any, times: int = 4) -> Any:
    """Cut out the band of a picture that the eyes are in, enlarge it, and outline both masks."""
    size = image.shape[0]
    rows, columns = np.nonzero(truth | predicted)
    y, x = (rows.mean(), columns.mean()) if len(rows) else (size / 2, size / 2)
    height, width = size // 4, size // 2
    top = int(np.clip(y - height / 2, 0, size - height))
    left = int(np.clip(x - width / 2, 0, size - width))
    box = slice(top, top + height), slice(left, left + width)
    image, truth, predicted = (
        plane[box].repeat(times, axis=0).repeat(times, axis=1)
        for plane in (image, truth, predicted)
    )
    return outline(outline(image, truth, GREEN), predicted, RED)


@torch.inference_mode()
def _predictions(
    model: nn.Module,
    loader: Loader,
    checkpoint: Checkpoint,
    keys: set[str] | None = None,
    count: int = sys.maxsize,
) -> list[tuple[str, Any, Any, Any]]:
    """Return (key, RGB, truth, prediction) of the samples named, or of the first `count`."""
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
    figures, reliability = evaluation.metrics, evaluation.histogram.reliability()
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
        ("calibration error", f"{reliability.error:.5f}"),
        ("  where it is unsure", f"{reliability.error_unsure:.4f}"),
        ("loss", f"{evaluation.loss:.4f}"),
        ("images/s", f"{evaluation.images_per_second:.1f}"),
    ]
    return "\n".join(f"{name:<24}{value}" for name, value in rows)


def save_evaluation(evaluation: Evaluation, context: dict[str, str], path: Path) -> None:
    """Write an evaluation as JSON, each picture's IoU included."""
    content = {
        **context,
        "metrics": evaluation.metrics.to_dict(),
        "loss": evaluation.loss,
        "images_per_second": evaluation.images_per_second,
        "reliability": asdict(evaluation.histogram.reliability()),
        "iou": evaluation.iou,
    }
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def plot_reliability(evaluation: Evaluation, threshold: float, path: Path) -> None:
    """Draw predicted against observed probability, and F1 over the threshold."""
    from matplotlib.figure import Figure

    reliability = evaluation.histogram.reliability()
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    there = [n > 0 for n in reliability.pixels]
    left.plot([0, 1], [0, 1], color="grey", linewidth=1)
    left.plot(
        [p for p, on in zip(reliability.predicted, there, strict=True) if on],
        [p for p, on in zip(reliability.observed, there, strict=True) if on],
        marker="o",
    )
    left.set(
        title=f"calibration error {reliability.error_unsure:.3f} where unsure (2 to 98 percent)",
        xlabel="predicted probability", ylabel="share of eye pixels", xlim=(0, 1), ylim=(0, 1),
    )  # fmt: skip
    thresholds, f1 = evaluation.histogram.f1_by_threshold()
    right.plot(thresholds, f1)
    right.axvline(threshold, color="grey", linewidth=1)
    right.set(
        title=f"threshold of the model: {threshold:.3f}", xlabel="threshold", ylabel="F1",
        xlim=(0, 1), ylim=(max(0.0, float(f1.max()) - 0.1), float(f1.max()) + 0.01),
    )  # fmt: skip
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def plot_stress(report: StressReport, path: Path) -> None:
    """Draw F1 under every difficulty at three strengths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.42 * len(report.rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(report.rows))[::-1]
    shades = ("#9ecae1", "#4292c6", "#08519c")
    for place, row in zip(places, report.rows, strict=True):
        axes.plot(row.f1, [place] * len(row.f1), color="#cccccc", linewidth=2, zorder=1)
    for level, (strength, shade) in enumerate(zip(STRENGTHS, shades, strict=True)):
        scores = [row.f1[level] for row in report.rows]
        axes.scatter(scores, places, s=45, label=strength, color=shade, zorder=2)
    axes.axvline(report.plain, color="black", linewidth=1, label="untouched")
    labels = [f"{row.name} ({', '.join(f'{v:g}' for v in row.figures)} {row.unit})"
              for row in report.rows]  # fmt: skip
    axes.set_yticks(places, labels)
    axes.set(xlabel="F1, both eyes merged")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)

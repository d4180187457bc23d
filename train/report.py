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

from preprocess.files import atomic_file
from preprocess.grid import GREEN, RED, close_up, grid, outline, save_png
from train.data import Loader
from train.evaluate import Evaluation, EvaluationRun
from train.run_folder import EpochRecord, read_run
from train.split import Rows
from train.stress import STRENGTHS, StressReport


def plot_history(history: Sequence[EpochRecord], path: Path) -> None:
    """Draw loss, val figures and speed over the epochs."""
    from matplotlib.figure import Figure

    epochs = [record.epoch for record in history]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    loss, score, speed = figure.subplots(1, 3)
    loss.plot(epochs, [record.loss for record in history], label="train")
    loss.plot(epochs, [record.val_loss for record in history], label="val (train if that is empty)")
    loss.set(title="loss (cross-entropy + 1 - Dice)", xlabel="epoch", yscale="log")
    for name, label in (("val_f1", "F1"), ("val_iou", "IoU"), ("val_mean_iou", "mean IoU")):
        score.plot(epochs, [getattr(record, name) for record in history], label=label)
    best = max(history, key=lambda record: record.val_f1)
    score.set(title=f"best F1 {best.val_f1:.4f}, epoch {best.epoch}", xlabel="epoch")
    speed.plot(epochs, [record.images_per_second for record in history], label="images/s")
    speed.set(title="training speed", xlabel="epoch", ylim=(0, None))
    for axes in (loss, score, speed):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def save_predictions(
    model: nn.Module, loader: Loader, threshold: float, path: Path, count: int = 12
) -> None:
    """Draw close-ups of the first samples of a split: truth green, prediction red, and IoU."""
    pictures, captions = [], []
    rows = np.arange(min(count, loader.split.samples), dtype=np.int32)
    for key, image, truth, predicted in _predictions(model, loader, threshold, rows):
        either = np.count_nonzero(truth | predicted)
        iou = np.count_nonzero(truth & predicted) / either if either else 1.0
        near = close_up(truth | predicted, image, truth, predicted)
        pictures += [near[0], outline(outline(near[0], near[1], GREEN), near[2], RED)]
        captions += [key, f"truth green, prediction red, IoU {iou:.3f}"]
    save_png(grid(pictures, 4, captions), path)


def save_examples(run: EvaluationRun, folder: Path, name: str, count: int = 16) -> list[Path]:
    """Draw the worst, the median and the best pictures by IoU, each as a grid of close-ups.

    Truth is outlined in green, the prediction in red. Returns the files.
    """
    ranked, threshold = run.evaluation.ranked(), run.checkpoint.threshold
    count = min(count, len(ranked))
    middle = (len(ranked) - count) // 2
    groups = {
        "worst": ranked[:count],
        "median": ranked[middle : middle + count],
        "best": ranked[::-1][:count],
    }
    paths = []
    for group, members in groups.items():
        pictures, captions = [], []
        rows = np.array(members, np.int32)
        found = _predictions(run.model, run.loader, threshold, rows)
        for row, (key, image, truth, predicted) in zip(members, found, strict=True):
            near = close_up(truth | predicted, image, truth, predicted)
            pictures.append(outline(outline(near[0], near[1], GREEN), near[2], RED))
            captions.append(f"{key}  IoU {run.evaluation.iou[row]:.3f}")
        paths.append(folder / f"{group}_{name}.png")
        save_png(grid(pictures, 4, captions), paths[-1])
    return paths


@torch.inference_mode()
def _predictions(
    model: nn.Module, loader: Loader, threshold: float, rows: Rows
) -> list[tuple[str, Any, Any, Any]]:
    """Return (key, RGB, truth, prediction) of samples."""
    found: list[tuple[str, Any, Any, Any]] = []
    for batch in loader.batches([rows[at : at + 16] for at in range(0, len(rows), 16)]):
        marked = model(batch.images.permute(0, 3, 1, 2)).float().sigmoid()[:, 0] >= threshold
        predicted = marked.byte().mul(255).cpu().numpy()
        images, truth = batch.images.cpu().numpy(), batch.masks.cpu().numpy()
        found += zip(loader.split.keys(batch.rows), images, truth, predicted, strict=True)
    return found


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


def save_evaluation(run: EvaluationRun, context: dict[str, str], path: Path) -> None:
    """Write an evaluation as JSON, each picture's IoU included."""
    rows = np.array(list(run.evaluation.iou), np.int32)
    content = {
        **context,
        "metrics": run.evaluation.metrics.to_dict(),
        "loss": run.evaluation.loss,
        "images_per_second": run.evaluation.images_per_second,
        "reliability": asdict(run.evaluation.histogram.reliability()),
        "iou": dict(zip(run.loader.split.keys(rows), run.evaluation.iou.values(), strict=True)),
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
    _save(figure, path)


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
    _save(figure, path)


def compare(outputs: Sequence[Path], path: Path) -> str:
    """Draw F1 of some runs over time and over epochs; return a table of them.

    The table shows each run's best epoch, and the settings in which the runs differ.

    Raises
    ------
    InputError
        If a folder holds no run.
    """
    from matplotlib.figure import Figure

    runs = [read_run(output) for output in outputs]
    flat = [_flat(settings) for settings, _ in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    differ = [name for name in names
              if name != "output" and len({str(s.get(name)) for s in flat}) > 1]  # fmt: skip
    rows = [["run", "epochs", "best F1", "at epoch", "mean IoU", "seconds", "images/s", *differ]]
    figure = Figure(figsize=(11, 4), layout="constrained")
    by_time, by_epoch = figure.subplots(1, 2)
    for output, settings, (_, history) in zip(outputs, flat, runs, strict=True):
        best = max(history, key=lambda record: record.val_f1)
        seconds = np.cumsum([record.seconds for record in history])
        speed = np.median([record.images_per_second for record in history])
        rows.append([
            str(output), str(len(history)), f"{best.val_f1:.4f}", str(best.epoch),
            f"{best.val_mean_iou:.4f}", f"{seconds[-1]:.0f}", f"{speed:.1f}",
            *(str(settings.get(name)) for name in differ),
        ])  # fmt: skip
        f1 = [record.val_f1 for record in history]
        by_time.plot(seconds, f1, label=str(output))
        by_epoch.plot([record.epoch for record in history], f1, label=str(output))
    by_time.set(title="F1 over time", xlabel="seconds of training")
    by_epoch.set(title="F1 over epochs", xlabel="epoch")
    for axes in (by_time, by_epoch):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested settings by their path: augment.blur.strength."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat

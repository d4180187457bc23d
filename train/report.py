"""Plots, picture grids and tables of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from preprocess.files import atomic_file, write_json
from preprocess.grid import GREEN, RED, close_up, grid, outline, save_png
from preprocess.storage import Place
from train.data import Loader
from train.evaluate import Evaluation, EvaluationRun
from train.run_folder import EpochRecord, read_run
from train.split import Rows
from train.stress import STRENGTHS, StressReport


@contextmanager
def _plot(path: Place, width: float, height: float, columns: int = 1) -> Iterator[list[Any]]:
    """Yield axes side by side; then give them a grid and a legend, and write the plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    row = list(figure.subplots(1, columns, squeeze=False)[0])
    yield row
    for axes in row:
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def plot_history(history: Sequence[EpochRecord], path: Place) -> None:
    """Draw loss, val figures and speed over the epochs."""
    best = max(history, key=lambda record: record.val_f1)
    with _plot(path, 13, 3.6, 3) as (loss, score, speed):
        for axes, name, label in (
            (loss, "loss", "train"), (loss, "val_loss", "val (train if that is empty)"),
            (score, "val_f1", "F1"), (score, "val_iou", "IoU"), (score, "val_mean_iou", "mean IoU"),
            (speed, "images_per_second", "images/s"),
        ):  # fmt: skip
            values = [getattr(record, name) for record in history]
            axes.plot([record.epoch for record in history], values, label=label)
        for name in best.pack_f1 if len(best.pack_f1) > 1 else ():
            values = [record.pack_f1[name] for record in history]
            score.plot([record.epoch for record in history], values, ":", label=f"F1, {name}")
        loss.set(title="loss (cross-entropy + 1 - Dice)", xlabel="epoch", yscale="log")
        score.set(title=f"best F1 {best.val_f1:.4f}, epoch {best.epoch}", xlabel="epoch")
        speed.set(title="training speed", xlabel="epoch", ylim=(0, None))


def save_examples(run: EvaluationRun, folder: Path, name: str, count: int = 16) -> list[Path]:
    """Draw the worst, the median and the best pictures by IoU; return the files."""
    iou = run.evaluation.iou
    ranked = np.array(sorted(iou, key=lambda row: (iou[row], row)), np.int32)
    middle = max(0, (len(ranked) - count) // 2)
    paths = []
    for group, rows in (("worst", ranked), ("median", ranked[middle:]), ("best", ranked[::-1])):
        paths.append(folder / f"{group}_{name}.png")
        save_close_ups(
            run.model, run.loader, rows[:count], run.checkpoint.threshold, paths[-1]
        )  # fmt: skip
    return paths


@torch.inference_mode()
def save_close_ups(
    model: nn.Module, loader: Loader, rows: Rows, threshold: float, path: Place
) -> None:
    """Draw close-ups of samples, each beside truth (green) and prediction (red), with the IoU."""
    pictures, captions = [], []
    for batch in loader.batches([rows[at : at + 16] for at in range(0, len(rows), 16)]):
        marked = model(batch.images.permute(0, 3, 1, 2)).float().sigmoid()[:, 0] >= threshold
        planes = (plane.cpu().numpy() for plane in (batch.images, batch.masks, 255 * marked.byte()))
        keys = loader.split.keys(batch.rows)
        for key, image, truth, predicted in zip(keys, *planes, strict=True):
            either = np.count_nonzero(truth | predicted)
            iou = np.count_nonzero(truth & predicted) / either if either else 1.0
            near, *marks = close_up(truth | predicted, image, truth, predicted)
            pictures += [near, outline(outline(near, marks[0], GREEN), marks[1], RED)]
            captions += [key, f"truth green, prediction red, IoU {iou:.3f}"]
    save_png(grid(pictures, 4, captions), path)


def table(evaluation: Evaluation) -> str:
    """Format an evaluation for people."""
    figures, reliability = evaluation.metrics, evaluation.histogram.reliability()
    rows = {
        "images": f"{figures.images} ({figures.images_without_eyes} without eyes)",
        "F1, both eyes merged": f"{figures.f1:.4f}",
        "IoU, both eyes merged": f"{figures.iou:.4f}",
        "mean IoU per image": f"{figures.mean_iou:.4f}",
        "precision": f"{figures.precision:.4f}",
        "recall": f"{figures.recall:.4f}",
        "false pixels, no eye":
            f"{figures.false_positive_pixels} ({figures.false_positive_share:.4%})",
        "calibration error": f"{reliability.error:.5f}",
        "  where it is unsure": f"{reliability.error_unsure:.4f}",
        "loss": f"{evaluation.loss:.4f}",
        "images/s": f"{evaluation.images_per_second:.1f}",
    }  # fmt: skip
    return "\n".join(f"{name:<24}{value}" for name, value in rows.items())


def save_evaluation(run: EvaluationRun, context: dict[str, str], path: Path) -> None:
    """Write an evaluation as JSON, each picture's IoU included."""
    keys = run.loader.split.keys(np.array(list(run.evaluation.iou), np.int32))
    write_json(path, {
        **context,
        "metrics": asdict(run.evaluation.metrics),
        "loss": run.evaluation.loss,
        "images_per_second": run.evaluation.images_per_second,
        "reliability": asdict(run.evaluation.histogram.reliability()),
        "iou": dict(zip(keys, run.evaluation.iou.values(), strict=True)),
    })  # fmt: skip


def plot_reliability(evaluation: Evaluation, threshold: float, path: Path) -> None:
    """Draw predicted against observed probability, and F1 over the threshold."""
    reliability = evaluation.histogram.reliability()
    there = np.array(reliability.pixels) > 0
    thresholds, f1 = evaluation.histogram.f1_by_threshold()
    with _plot(path, 9, 4, 2) as (left, right):
        left.plot([0, 1], [0, 1], color="grey", linewidth=1)
        predicted, observed = np.array(reliability.predicted), np.array(reliability.observed)
        left.plot(predicted[there], observed[there], marker="o")
        left.set(
            title=f"calibration error {reliability.error_unsure:.3f} between 2 and 98 percent",
            xlabel="predicted probability", ylabel="share of eye pixels", xlim=(0, 1), ylim=(0, 1),
        )  # fmt: skip
        right.plot(thresholds, f1)
        right.axvline(threshold, color="grey", linewidth=1)
        right.set(
            title=f"threshold of the model: {threshold:.3f}", xlabel="threshold", ylabel="F1",
            xlim=(0, 1), ylim=(max(0.0, float(f1.max()) - 0.1), float(f1.max()) + 0.01),
        )  # fmt: skip


def plot_stress(report: StressReport, path: Path) -> None:
    """Draw F1 under every difficulty at three strengths."""
    places = np.arange(len(report.rows))[::-1]
    scores = np.array([row.f1 for row in report.rows])
    with _plot(path, 9, 0.42 * len(report.rows) + 1.4) as (axes,):
        axes.hlines(places, scores.min(axis=1), scores.max(axis=1), color="#cccccc", zorder=1)
        for strength, shade, f1 in zip(
            STRENGTHS, ("#9ecae1", "#4292c6", "#08519c"), scores.T, strict=True
        ):
            axes.scatter(f1, places, s=45, label=strength, color=shade, zorder=2)
        axes.axvline(report.plain, color="black", linewidth=1, label="untouched")
        axes.set_yticks(places, [row.title for row in report.rows])
        axes.set(xlabel="F1, both eyes merged")


def compare(outputs: Sequence[Place], path: Path) -> str:
    """Draw F1 of some runs over time and over epochs; return a table of them.

    The table shows each run's best epoch, and the settings in which the runs differ.
    """
    runs = [read_run(output) for output in outputs]
    flat = [_flat(settings) for settings, _ in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    differ = [name for name in names
              if name != "output" and len({str(s.get(name)) for s in flat}) > 1]  # fmt: skip
    rows = [["run", "epochs", "best F1", "at epoch", "mean IoU", "seconds", "images/s", *differ]]
    with _plot(path, 11, 4, 2) as (by_time, by_epoch):
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested settings by their path: augment.blur.strength."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat

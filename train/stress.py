"""How much a model loses on photographs unlike its training set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from preprocess.files import atomic_file
from preprocess.image import RGB
from train.data import Batch
from train.difficulty import DIFFICULTIES, NO_EYES, Difficulty, Mask, Rng, without_eyes
from train.evaluate import EvaluationRun, evaluate, in_order
from train.metrics import Metrics

STRENGTHS = ("weak", "medium", "strong")


Change = Callable[[RGB, Mask, Rng], tuple[RGB, Mask] | None]


def changed(batches: Iterable[Batch], change: Change) -> Iterator[Batch]:
    """Make the pictures of batches harder.

    Parameters
    ----------
    batches
        Whole pictures.
    change
        (RGB, mask, generator) to (RGB, mask), or None to leave a picture out. The generator's
        numbers follow from the sample's number alone.
    """
    for batch in batches:
        images, masks = batch.images.cpu().numpy(), batch.masks.cpu().numpy()
        pairs, rows = [], []
        for image, mask, row in zip(images, masks, batch.rows.tolist(), strict=True):
            pair = change(image, mask, np.random.default_rng((*b"stress", row)))
            if pair is not None:
                pairs.append(pair)
                rows.append(row)
        if pairs:
            device = batch.images.device
            yield Batch(
                torch.from_numpy(np.stack([image for image, _ in pairs])).to(device),
                torch.from_numpy(np.stack([mask for _, mask in pairs])).to(device),
                np.array(rows, np.int32),
            )


def harder(batches: Iterable[Batch], difficulty: Difficulty, level: int) -> Iterator[Batch]:
    """Apply a difficulty at one of its three strengths (0, 1, 2)."""
    figure = difficulty.figures[level]
    return changed(batches, lambda rgb, mask, rng: difficulty.apply(rgb, mask, figure, rng))


def eyeless(batches: Iterable[Batch], kind: str) -> Iterator[Batch]:
    """Turn pictures into pictures without an eye (see `without_eyes`)."""

    def change(rgb: RGB, mask: Mask, _: Rng) -> tuple[RGB, Mask] | None:
        shown = without_eyes(rgb, mask, kind)
        return None if shown is None else (shown, np.zeros_like(mask))

    return changed(batches, change)


@dataclass(frozen=True)
class StressRow:
    """F1 under one difficulty, weak, medium and strong, and what those figures count."""

    name: str
    unit: str
    figures: tuple[float, ...]
    f1: tuple[float, ...]


@dataclass(frozen=True)
class StressReport:
    """F1 of the pictures as they are, under each difficulty, and what is marked without eyes.

    Attributes
    ----------
    plain
        F1 of the untouched pictures.
    rows
        One for each difficulty.
    marked
        Share of pixels marked in pictures without an eye, by how they were made.
    """

    plain: float
    rows: tuple[StressRow, ...]
    marked: dict[str, float]

    def table(self) -> str:
        """Format for people: F1 at each strength and, behind it, what is lost."""
        lines = [f"{'F1 under stress':<36}" + "".join(f"{name:>16}" for name in STRENGTHS)]
        lines.append(f"{'untouched':<36}{self.plain:>9.4f}")
        for row in self.rows:
            what = f"{row.name} ({', '.join(f'{figure:g}' for figure in row.figures)} {row.unit})"
            values = "".join(f"{f1:>9.4f} {f1 - self.plain:+.3f}" for f1 in row.f1)
            lines.append(f"{what:<{max(36, len(what) + 1)}}{values}")
        for kind, share in self.marked.items():
            lines.append(f"{'no eye: ' + kind:<36}{share:>9.4%} of pixels marked")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        with atomic_file(path) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")


def run_stress(run: EvaluationRun) -> StressReport:
    """Evaluate a model under every difficulty; one process does it all."""
    batches = list(in_order(run.loader))

    def metrics(pictures: Iterable[Batch]) -> Metrics:
        threshold = run.checkpoint.threshold
        return evaluate(run.model, pictures, threshold=threshold, amp=run.amp).metrics

    rows, marked = [], {}
    total = len(DIFFICULTIES) * len(STRENGTHS) + len(NO_EYES)
    with tqdm(total=total, unit="pass", desc="stress", disable=None, leave=False) as bar:
        for difficulty in DIFFICULTIES:
            scores = []
            for level in range(len(STRENGTHS)):
                scores.append(metrics(harder(batches, difficulty, level)).f1)
                bar.update()
            rows.append(
                StressRow(difficulty.name, difficulty.unit, difficulty.figures, tuple(scores))
            )
        for kind in NO_EYES:
            marked[kind] = metrics(eyeless(batches, kind)).false_positive_share
            bar.update()
    return StressReport(run.evaluation.metrics.f1, tuple(rows), marked)

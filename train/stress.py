"""How much a model loses on photographs unlike its training set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from preprocess.image import RGB
from train.data import Batch
from train.difficulty import DIFFICULTIES, NO_EYES, Difficulty, Mask, Rng, without_eyes
from train.evaluate import EvaluationRun, evaluate, in_order
from train.metrics import Metrics

STRENGTHS = ("weak", "medium", "strong")

# (RGB, mask, generator) to (RGB, mask), or None to leave a picture out.
Change = Callable[[RGB, Mask, Rng], tuple[RGB, Mask] | None]


def _changed(batches: Iterable[Batch], change: Change) -> Iterator[Batch]:
    """Change the pictures of batches; the generator's numbers follow from the sample's alone."""
    for batch in batches:
        planes = (batch.images.cpu().numpy(), batch.masks.cpu().numpy(), batch.rows.tolist())
        pairs = {}
        for image, mask, row in zip(*planes, strict=True):
            pair = change(image, mask, np.random.default_rng((*b"stress", row)))
            if pair is not None:
                pairs[row] = pair
        if pairs:
            images, masks = (
                torch.from_numpy(np.stack(plane)).to(batch.images.device)
                for plane in zip(*pairs.values(), strict=True)
            )
            yield Batch(images, masks, np.array(list(pairs), np.int32))


def harder(batches: Iterable[Batch], difficulty: Difficulty, level: int) -> Iterator[Batch]:
    """Apply a difficulty at one of its three strengths (0, 1, 2) to batches of whole pictures."""
    figure = difficulty.figures[level]
    return _changed(batches, lambda rgb, mask, rng: difficulty.apply(rgb, mask, figure, rng))


def eyeless(batches: Iterable[Batch], kind: str) -> Iterator[Batch]:
    """Turn pictures into pictures without an eye (see `without_eyes`)."""

    def change(rgb: RGB, mask: Mask, _: Rng) -> tuple[RGB, Mask] | None:
        shown = without_eyes(rgb, mask, kind)
        return None if shown is None else (shown, np.zeros_like(mask))

    return _changed(batches, change)


@dataclass(frozen=True)
class StressRow:
    """F1 under one difficulty, weak, medium and strong, and what those figures count."""

    name: str
    unit: str
    figures: tuple[float, ...]
    f1: tuple[float, ...]

    @property
    def title(self) -> str:
        """Name, figures and unit."""
        return f"{self.name} ({', '.join(f'{figure:g}' for figure in self.figures)} {self.unit})"


@dataclass(frozen=True)
class StressReport:
    """What a model finds in harder pictures, and marks in pictures without an eye."""

    plain: float  # F1 of the pictures as they are
    rows: tuple[StressRow, ...]
    marked: dict[str, float]  # share of pixels, by how the pictures were made

    def table(self) -> str:
        """Format for people: F1 at each strength and, behind it, what is lost."""
        lines = [f"{'F1 under stress':<36}" + "".join(f"{name:>16}" for name in STRENGTHS)]
        lines.append(f"{'untouched':<36}{self.plain:>9.4f}")
        for row in self.rows:
            values = "".join(f"{f1:>9.4f} {f1 - self.plain:+.3f}" for f1 in row.f1)
            lines.append(f"{row.title:<{max(36, len(row.title) + 1)}}{values}")
        for kind, share in self.marked.items():
            lines.append(f"{'no eye: ' + kind:<36}{share:>9.4%} of pixels marked")
        return "\n".join(lines)


def run_stress(run: EvaluationRun) -> StressReport:
    """Evaluate a model under every difficulty; one process does it all."""
    batches = list(in_order(run.loader))
    total = len(DIFFICULTIES) * len(STRENGTHS) + len(NO_EYES)
    with tqdm(total=total, unit="pass", desc="stress", disable=None, leave=False) as bar:

        def metrics(pictures: Iterable[Batch]) -> Metrics:
            bar.update()
            threshold = run.checkpoint.threshold
            return evaluate(run.model, pictures, threshold=threshold, amp=run.amp).metrics

        rows = [
            StressRow(each.name, each.unit, each.figures,
                      tuple(metrics(harder(batches, each, level)).f1 for level in range(3)))
            for each in DIFFICULTIES
        ]  # fmt: skip
        marked = {
            kind: metrics(eyeless(batches, kind)).false_positive_share for kind in NO_EYES
        }  # fmt: skip
    return StressReport(run.evaluation.metrics.f1, tuple(rows), marked)

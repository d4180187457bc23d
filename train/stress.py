"""How much a model loses on photographs unlike its training set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from preprocess.image import RGB
from preprocess.shards import atomic_file
from train.batch import Batch
from train.decode import InputSpec, binarise, denormalise, normalise
from train.difficulty import DIFFICULTIES, NO_EYES, Difficulty, Mask, Rng, without_eyes
from train.evaluate import EvaluationRun, evaluate
from train.loader import Loader
from train.metrics import Metrics

STRENGTHS = ("weak", "medium", "strong")


class HarderLoader:
    """A loader's pictures, each made harder (see `train.loader.Loader`).

    Parameters
    ----------
    loader
        Opened without shuffling and augmentation.
    spec
        What the loader's pictures are normalised by.
    change
        (RGB, mask, generator) to (RGB, mask), or None to leave a picture out.
    """

    def __init__(
        self,
        loader: Loader,
        spec: InputSpec,
        change: Callable[[RGB, Mask, Rng], tuple[RGB, Mask] | None],
    ) -> None:
        self._loader, self._spec, self._change = loader, spec, change
        self.samples, self.steps = loader.samples, loader.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the changed batches; the same each time."""
        for step, batch in enumerate(self._loader.epoch(epoch)):
            squares = denormalise(batch.images, self._spec)
            planes = (batch.masks[:, 0] > 0.5).cpu().numpy().astype(np.uint8) * 255
            rng = np.random.default_rng((*b"stress", step))
            changed = [
                (*pair, key)
                for square, plane, key in zip(squares, planes, batch.keys, strict=True)
                if (pair := self._change(square, plane, rng)) is not None
            ]
            if not changed:
                continue
            device = batch.images.device
            yield Batch(
                normalise(np.stack([image for image, _, _ in changed]), self._spec).to(device),
                binarise(np.stack([mask for _, mask, _ in changed])).to(device),
                tuple(key for _, _, key in changed),
            )


def harder(loader: Loader, spec: InputSpec, difficulty: Difficulty, level: int) -> HarderLoader:
    """Apply a difficulty at one of its three strengths (0, 1, 2) to a loader's pictures."""
    figure = difficulty.figures[level]

    def change(rgb: RGB, mask: Mask, rng: Rng) -> tuple[RGB, Mask]:
        return difficulty.apply(rgb, mask, figure, rng)

    return HarderLoader(loader, spec, change)


def eyeless(loader: Loader, spec: InputSpec, kind: str) -> HarderLoader:
    """Turn a loader's pictures into pictures without an eye (see `without_eyes`)."""

    def change(rgb: RGB, mask: Mask, _: Rng) -> tuple[RGB, Mask] | None:
        changed = without_eyes(rgb, mask, kind)
        return None if changed is None else (changed, np.zeros_like(mask))

    return HarderLoader(loader, spec, change)


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
    spec, loader = run.checkpoint.spec, run.loader

    def metrics(changed: Loader) -> Metrics:
        threshold = run.checkpoint.threshold
        return evaluate(run.model, changed, threshold=threshold, progress=False).metrics

    rows, marked = [], {}
    total = len(DIFFICULTIES) * len(STRENGTHS) + len(NO_EYES)
    with tqdm(total=total, unit="pass", desc="stress", disable=None, leave=False) as bar:
        for difficulty in DIFFICULTIES:
            scores = []
            for level in range(len(STRENGTHS)):
                scores.append(metrics(harder(loader, spec, difficulty, level)).f1)
                bar.update()
            rows.append(
                StressRow(difficulty.name, difficulty.unit, difficulty.figures, tuple(scores))
            )
        for kind in NO_EYES:
            marked[kind] = metrics(eyeless(loader, spec, kind)).false_positive_share
            bar.update()
    return StressReport(run.evaluation.metrics.f1, tuple(rows), marked)

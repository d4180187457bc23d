"""The output folder of a run: history, checkpoints kept and dropped, an earlier run set aside."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from preprocess.errors import InputError
from preprocess.files import atomic_file, from_fields
from preprocess.storage import Place
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, epoch_files

HISTORY_FILE = "history.jsonl"
HISTORY_PLOT = "training_history.png"
PREDICTIONS_PLOT = "sample_predictions.png"
SETTINGS_FILE = "settings.json"
NON_FINITE_FILE = "non_finite_loss.json"
_EVALUATION_FILES = ("evaluation_*.json", "reliability_*.png", "stress_*", "best_*.png",
                     "median_*.png", "worst_*.png")  # fmt: skip
_BEFORE = {"accumulate": 1}  # of runs that are older than a setting
_KEPT = 2  # training checkpoints, besides the best


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``history.jsonl``; val's figures are those of train if val is empty."""

    epoch: int
    loss: float
    val_loss: float
    val_f1: float
    val_iou: float
    val_mean_iou: float
    lr: float
    seconds: float
    images_per_second: float
    waiting: float  # share of the time spent waiting for data
    pack_f1: dict[str, float] = field(default_factory=dict)  # F1 of each pack; val_f1 is their mean

    def line(self, epochs: int, judge: str, best: EpochRecord) -> str:
        """Say how the epoch went; `judge` is the split of the figures."""
        several = self.pack_f1 if len(self.pack_f1) > 1 else {}
        packs = "".join(f"{name} {f1:.4f}, " for name, f1 in several.items())
        return (
            f"epoch {self.epoch}/{epochs}: loss {self.loss:.4f}, {judge} F1 {self.val_f1:.4f} "
            f"({packs}best {best.val_f1:.4f}, epoch {best.epoch}), "
            f"IoU {self.val_iou:.4f}, {self.images_per_second:.1f} images/s, "
            f"{self.waiting:.1%} waiting for data"
        )


def read_run(output: Place) -> tuple[dict[str, Any], list[EpochRecord]]:
    """Return the settings and the history that a run left; an `InputError` if they are damaged."""
    try:
        settings = _BEFORE | json.loads((output / SETTINGS_FILE).read_bytes())["settings"]
        lines = (output / HISTORY_FILE).read_bytes().splitlines()
        history = [from_fields(EpochRecord, json.loads(line)) for line in lines]
        if not history:
            raise ValueError("no epoch is finished")
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "Give the --output of a run"
        raise InputError(output, f"holds no run that can be read ({error})", remedy) from None
    return settings, history


def set_aside(output: Place) -> Place | None:
    """Move an earlier run's files to ``previous-NNN/``; return that folder (None: no run)."""
    names = (MODEL_FILE, HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT)
    paths = [path for name in names if (path := output / name).exists()] + epoch_files(output)
    if not paths:
        return None
    for pattern in (SETTINGS_FILE, NON_FINITE_FILE, *_EVALUATION_FILES):
        paths += output.glob(pattern)
    number = 1
    while any((folder := output / f"previous-{number:03d}").glob("*")):
        number += 1
    if isinstance(folder, Path):
        folder.mkdir(exist_ok=True)
    for path in paths:
        path.rename(folder / path.name)  # type: ignore[arg-type]  # both are of one kind
    return folder


def latest_checkpoint(output: Place, decides: dict[str, Any]) -> Checkpoint | None:
    """Load the newest training checkpoint of a run (None: there is none).

    An `InputError` if a setting that decides the weights differs.
    """
    paths = epoch_files(output)
    if not paths:
        return None
    checkpoint = Checkpoint.load(paths[-1])
    then = checkpoint.training.get("decides")
    if then is None:
        raise InputError(paths[-1], "holds no state of a training run", "Train without --resume")
    now, then = json.loads(json.dumps([decides, _BEFORE | then]))
    for name in now.keys() | then.keys():
        if now.get(name) != then.get(name):
            problem = f"was trained with {name}={then.get(name)}, now it is {now.get(name)}"
            if name == "data":
                problem = "was trained on another pack"
            raise InputError(paths[-1], problem, "Use the same settings, or train without --resume")
    return checkpoint


def restore_best(output: Place, best: int) -> None:
    """Write the model of epoch `best` again, if the model is missing or of another epoch.

    A kill can fall between the model and the training checkpoint of an epoch.
    """
    path = output / MODEL_FILE
    if path.exists() and Checkpoint.load(path).epoch == best:
        return
    if epoch_file(output, best).exists():
        replace(Checkpoint.load(epoch_file(output, best)), training={}).save(path)


def save_epoch(
    output: Place, saved: Checkpoint, history: tuple[EpochRecord, ...], best: int
) -> None:
    """Write what an epoch leaves behind, and delete the checkpoints that are no longer wanted."""
    # The training checkpoint comes last: if the run is killed earlier, it repeats this epoch.
    if best == saved.epoch:
        replace(saved, training={}).save(output / MODEL_FILE)
    with atomic_file(output / HISTORY_FILE) as file:
        for record in history:
            file.write(json.dumps(asdict(record)).encode() + b"\n")
    saved.save(epoch_file(output, saved.epoch))
    for path in epoch_files(output)[:-_KEPT]:
        if path != epoch_file(output, best):
            path.unlink()

"""The output folder of a run: history, checkpoints kept and dropped, an earlier run set aside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from preprocess.errors import InputError
from preprocess.files import atomic_file, from_fields
from train.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    epoch_file,
    epoch_files,
    source_of_this_code,
)
from train.config import TrainConfig

HISTORY_FILE = "history.jsonl"
HISTORY_PLOT = "training_history.png"
PREDICTIONS_PLOT = "sample_predictions.png"
SETTINGS_FILE = "settings.json"
_EVALUATION_FILES = ("evaluation_*.json", "reliability_*.png", "stress_*", "best_*.png",
                     "median_*.png", "worst_*.png")  # fmt: skip


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``history.jsonl``.

    Attributes
    ----------
    epoch, loss, lr, seconds, images_per_second
        Of training.
    val_loss, val_f1, val_iou, val_mean_iou
        Of val or, if that is empty, of train.
    waiting
        Share of the time spent waiting for data.
    """

    epoch: int
    loss: float
    val_loss: float
    val_f1: float
    val_iou: float
    val_mean_iou: float
    lr: float
    seconds: float
    images_per_second: float
    waiting: float


def write_settings(config: TrainConfig) -> None:
    """Write ``settings.json``: all settings of a run, and the code that it runs."""
    content = {"settings": asdict(config), "source": source_of_this_code()}
    with atomic_file(config.output / SETTINGS_FILE) as file:
        file.write(json.dumps(content, indent=2, default=str).encode() + b"\n")


def read_run(output: Path) -> tuple[dict[str, Any], list[EpochRecord]]:
    """Return the settings and the history that a run left in its folder.

    Raises
    ------
    InputError
        If they are missing or damaged.
    """
    try:
        settings = json.loads((output / SETTINGS_FILE).read_text())["settings"]
        lines = (output / HISTORY_FILE).read_text().splitlines()
        history = history_from([json.loads(line) for line in lines])
        if not history:
            raise ValueError("no epoch is finished")
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "Give the --output of a run"
        raise InputError(output, f"holds no run that can be read ({error})", remedy) from None
    return settings, history


def check_writable(output: Path) -> None:
    """Make the folder, and find out before the work that files can be written there.

    Raises
    ------
    OSError
        If they cannot.
    """
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=output):
        pass


def set_aside(output: Path) -> Path | None:
    """Move an earlier run's files to ``previous-NNN/``; return that folder (None: no run)."""
    names = [MODEL_FILE, HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT]
    paths = [output / name for name in names] + epoch_files(output)
    paths = [path for path in paths if path.exists()]
    if paths:
        for pattern in (SETTINGS_FILE, *_EVALUATION_FILES):
            paths += output.glob(pattern)
    if not paths:
        return None
    number = 1
    while (output / f"previous-{number:03d}").exists():
        number += 1
    folder = output / f"previous-{number:03d}"
    folder.mkdir()
    for path in paths:
        path.rename(folder / path.name)
    return folder


def latest_checkpoint(output: Path, decides: dict[str, Any]) -> Checkpoint | None:
    """Load the newest training checkpoint of a run with the same settings (None: there is none).

    Raises
    ------
    InputError
        If a setting that decides the weights differs.
    """
    paths = epoch_files(output)
    if not paths:
        return None
    checkpoint = Checkpoint.load(paths[-1])
    then = checkpoint.training.get("decides")
    if then is None:
        raise InputError(paths[-1], "holds no state of a training run", "Train without --resume")
    now = json.loads(json.dumps(decides))
    for name in now.keys() | then.keys():
        if now.get(name) != then.get(name):
            problem = f"was trained with {name}={then.get(name)}, now it is {now.get(name)}"
            if name == "data":
                problem = "was trained on another pack"
            raise InputError(paths[-1], problem, "Use the same settings, or train without --resume")
    return checkpoint


def restore_best(output: Path, best: int) -> None:
    """Write the model of epoch `best` again, if the model is missing or of another epoch.

    A kill can fall between the model and the training checkpoint of an epoch.
    """
    path = output / MODEL_FILE
    if path.exists() and Checkpoint.load(path).epoch == best:
        return
    if epoch_file(output, best).exists():
        replace(Checkpoint.load(epoch_file(output, best)), training={}).save(path)


def prune_checkpoints(output: Path, keep: int, best: int) -> None:
    """Delete all training checkpoints but the last `keep` and the one of epoch `best`."""
    for path in epoch_files(output)[:-keep]:
        if path != epoch_file(output, best):
            path.unlink()


def write_history(output: Path, records: Iterable[EpochRecord]) -> None:
    """Write ``history.jsonl``, one epoch a line."""
    with atomic_file(output / HISTORY_FILE) as file:
        for record in records:
            file.write(json.dumps(asdict(record)).encode() + b"\n")


def history_from(rows: list[dict[str, Any]]) -> list[EpochRecord]:
    """Rebuild records from a checkpoint."""
    return [from_fields(EpochRecord, row) for row in rows]

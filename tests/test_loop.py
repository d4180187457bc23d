"""Training for real, on small data: what is learnt, said and refused."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from common import TWO_PROCESSES, Patch, assert_same, python, tiny, weights

from preprocess.errors import InputError
from preprocess.manifest import EyeCount, Manifest
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, epoch_files
from train.config import ModelConfig, TrainConfig
from train.device import amp_dtype
from train.loop import _warning, fit
from train.run_folder import HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT, SETTINGS_FILE, read_run

pytestmark = pytest.mark.usefixtures("no_plots")


def test_a_run_writes_what_users_look_for(whole: TrainConfig) -> None:
    names = {path.name for path in whole.output.iterdir()}
    assert {MODEL_FILE, HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT, SETTINGS_FILE} <= names
    settings, rows = read_run(whole.output)
    assert [row.epoch for row in rows] == [1, 2, 3, 4]
    finished = Checkpoint.load(whole.output / MODEL_FILE)
    assert finished.training == {}
    assert rows[finished.epoch - 1].val_f1 == max(row.val_f1 for row in rows) > 0.05
    assert finished.metrics["f1"] >= rows[finished.epoch - 1].val_f1, "at a better threshold"
    kept = {int(path.stem.rsplit("_", 1)[1]) for path in epoch_files(whole.output)}
    assert kept == {3, 4, finished.epoch}
    assert settings.keys() == {field.name for field in fields(TrainConfig)}
    assert settings["augment"]["light"] == {"probability": 0.5, "strength": 0.2}
    assert "revision" in json.loads((whole.output / SETTINGS_FILE).read_text())["source"]


def test_a_run_on_two_packs_says_how_it_does_on_each(pack_root: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pack_root, tmp_path / "other"))
    config = tiny((pack_root, other), tmp_path / "two", weights=(1.0, 0.5))
    result = fit(config)
    for record in result.history:
        assert record.pack_f1.keys() == {pack_root.name, "other"}
        assert record.val_f1 == pytest.approx(sum(record.pack_f1.values()) / 2)
    finished = Checkpoint.load(result.model_path)
    assert finished.data == [
        {"name": pack_root.name, "samples": 20, "weight": 1.0},
        {"name": "other", "samples": 20, "weight": 0.5},
    ]
    newest = Checkpoint.load(epoch_file(config.output, 2))
    assert newest.training["model"]["shift"].shape == (2,)
    assert "shift" not in newest.weights, "the shift is no part of the model"
    assert len(fit(replace(config, epochs=3), resume=True).history) == 3


def test_it_learns_to_find_drawn_eyes(face_model: Path) -> None:
    """24 pictures, seen 20 times: it must at least learn those; chance is an F1 near 0.02."""
    assert read_run(face_model.parent)[1][-1].val_f1 > 0.5


def test_the_last_epochs_see_other_augmentation(pack_root: Path, tmp_path: Path) -> None:
    runs = [tiny(pack_root, tmp_path / f"{settle}", settle=settle) for settle in (0.0, 0.5)]
    for config in runs:
        fit(config)
    assert_same(*(epoch_file(config.output, 1) for config in runs))
    last = [weights(epoch_file(config.output, 2))["coarse.weight"] for config in runs]
    assert not torch.equal(*last)


def test_training_begins_with_given_weights(copy: TrainConfig, tmp_path: Path) -> None:
    model = copy.output / MODEL_FILE
    begun = replace(copy, output=tmp_path / "begun", epochs=1, lr=1e-8, init=model)
    given = Checkpoint.load(model).weights

    def farthest(config: TrainConfig) -> float:
        found = Checkpoint.load(fit(config).model_path).weights
        names = [name for name in given if name.endswith("weight")]
        return max(float((found[name] - given[name]).abs().max()) for name in names)

    assert farthest(begun) < 1e-4  # hardly a step is taken
    assert farthest(replace(begun, init=None, output=tmp_path / "new")) > 1e-3
    with pytest.raises(InputError, match="has the shape.*Give weights of this shape"):
        fit(replace(begun, model=ModelConfig(width=8, depth=2)))
    model.unlink()
    with pytest.raises(InputError, match="does not exist"):
        fit(replace(begun, output=tmp_path / "again"))
    assert len(fit(replace(begun, epochs=2), resume=True).history) == 2


@pytest.mark.slow
def test_two_processes_train_one_model(pack_root: Path, tmp_path: Path) -> None:
    """Same batches, shared gradients; batch statistics are each process's own on a CPU."""
    alone = TrainConfig(pack_root, tmp_path / "alone", epochs=2, batch=4)
    fit(alone)
    shared = tmp_path / "shared"
    words = ["--shards", pack_root, "--output", shared, "--epochs", 2, "--batch", 4]
    done = python(*TWO_PROCESSES, *words, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es)" in done.stderr
    assert done.stdout.count("val F1") == 1, "only the first process speaks"
    one, other = (Checkpoint.load(epoch_file(path, 1)) for path in (alone.output, shared))
    # Another sample in a batch, or gradients that are not shared, would show in the first epoch.
    for name, value in one.training["model"].items():
        if name.endswith("weight") and value.ndim == 4:
            given = other.training["model"][name]
            cosine = torch.cosine_similarity(value.flatten(), given.flatten(), dim=0)
            assert float(cosine) > 0.98, name
    rows = [read_run(output)[1] for output in (alone.output, shared)]
    assert rows[1][0].loss == pytest.approx(rows[0][0].loss, rel=0.05)
    assert rows[1][-1].loss < rows[1][0].loss


def test_the_device_decides_the_precision(
    pack_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    assert amp_dtype("auto", torch.device("cpu")) is None
    losses = [fit(tiny(pack_root, tmp_path / amp, epochs=1, amp=amp)).history[0].loss
              for amp in ("auto", "bf16")]  # fmt: skip
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)

    def native(including_emulation: bool = True) -> bool:
        return including_emulation  # as on a T4: emulated only

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", native)
    assert amp_dtype("auto", torch.device("cuda")) is torch.float16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e30, "epochs": 6}, "Lower --lr"),
        ({"model": ModelConfig(width=1, depth=6)}, "multiple of 128"),
    ],
)
def test_a_run_that_cannot_work_ends_with_the_remedy(
    pack_root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(tiny(pack_root, tmp_path, **changes))


def test_a_full_disk_while_an_epoch_is_written_ends_the_run(
    pack_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Files are written beside the next epoch: what goes wrong there must not be lost."""
    save, tried = Checkpoint.save, []

    def full(self: Checkpoint, path: Path) -> None:
        tried.append(path)
        if len(tried) == 1:  # there is room again for the next epoch
            raise OSError(28, "No space left on device", str(path))
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", full)
    with pytest.raises(InputError, match="No space left.*free space"):
        fit(tiny(pack_root, tmp_path))


def test_an_f1_of_0_is_a_warning_with_its_cause(pack_root: Path, tmp_path: Path) -> None:
    config = tiny(pack_root, tmp_path, epochs=1, lr=1e-9)
    short = fit(config)
    assert "val F1 is 0: 10 steps may be too few" in short.warning
    blind = replace(Manifest.load(pack_root).split("train"), eyes=EyeCount(none=20))
    assert "no sample of train shows an eye" in _warning(short.best, "val", config, [blind])


def test_without_val_samples_nothing_is_called_val(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fit(tiny(face_shards, tmp_path, epochs=1, batch=8))
    assert result.judged_by == "train"
    said = capsys.readouterr().err
    assert "train F1" in said
    assert "val F1" not in said
    assert not Checkpoint.load(result.model_path).calibration

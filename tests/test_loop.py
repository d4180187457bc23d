"""Training for real, on small data: it learns, goes on bit for bit, and may be shared out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocess.errors import InputError
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, pack
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, epoch_files
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.loop import amp_dtype, fit
from train.run_folder import HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT

SMALL = ModelConfig(width=4, depth=2)


def small(shards: Path, output: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(shards, output, epochs=2, batch=4, model=SMALL, loader="portable")
    return replace(base, **changes)


def weights(output: Path, epoch: int) -> dict[str, torch.Tensor]:
    stored = Checkpoint.load(epoch_file(output, epoch))
    return {**stored.weights, **{f"raw.{k}": v for k, v in stored.training["model"].items()}}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_last_epochs_see_softer_augmentation(pack_root: Path, tmp_path: Path) -> None:
    runs = {
        "settled": small(pack_root, tmp_path / "a", settle=0.5),
        "never": small(pack_root, tmp_path / "b", settle=0.0),
        "always": small(pack_root, tmp_path / "c", settle=1.0),
        "soft": small(pack_root, tmp_path / "d", settle=0.0, augment=AugmentConfig().softened()),
    }
    for config in runs.values():
        fit(config)
    first = {name: weights(config.output, 1) for name, config in runs.items()}
    last = {name: weights(config.output, 2) for name, config in runs.items()}
    assert_same(first["settled"], first["never"])
    assert_same(last["always"], last["soft"])
    for name in ("never", "always"):
        assert not torch.equal(last["settled"]["coarse.weight"], last[name]["coarse.weight"])


def test_a_run_writes_what_users_look_for(pack_root: Path, tmp_path: Path) -> None:
    result = fit(small(pack_root, tmp_path, epochs=4, keep=2))
    names = {path.name for path in tmp_path.iterdir()}
    assert {MODEL_FILE, HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT} <= names
    rows = [json.loads(line) for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(0 <= row["waiting"] <= 1 and row["images_per_second"] > 0 for row in rows)
    kept = {int(path.stem.rsplit("_", 1)[1]) for path in epoch_files(tmp_path)}
    assert kept == {3, 4, result.best.epoch}
    finished = Checkpoint.load(result.model_path)
    assert finished.training == {}
    assert finished.epoch == result.best.epoch
    assert finished.metrics["f1"] == result.best.val_f1 == max(row["val_f1"] for row in rows)


@pytest.mark.slow
def test_it_learns_to_find_drawn_eyes(faces: Path, tmp_path: Path) -> None:
    """20 pictures, seen 40 times: it must at least learn those; chance is an F1 near 0.02."""
    shards = tmp_path / "shards"
    pack(PackConfig(faces, shards, PackSettings(size=96), split="train", workers=1))
    config = TrainConfig(
        shards, tmp_path / "out", epochs=40, batch=8, lr=5e-3, ema=0.8, threads=1,
        model=ModelConfig(width=8, depth=3), augment=AugmentConfig.off(),
    )  # fmt: skip
    result = fit(config)
    assert result.history[-1].val_f1 > 0.5
    assert result.history[-1].loss < 0.6 * result.history[0].loss


@pytest.mark.parametrize("loader", ["dali", "portable"])
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(
    pack_root: Path, tmp_path: Path, loader: str
) -> None:
    augment = AugmentConfig()
    whole = small(pack_root, tmp_path / "whole", epochs=4, loader=loader, augment=augment, keep=9)
    fit(whole)
    part = replace(whole, output=tmp_path / "part")
    fit(part)
    for epoch in (3, 4):  # as if the run had ended after two epochs
        epoch_file(part.output, epoch).unlink()
    result = fit(part, resume=True)
    assert_same(weights(whole.output, 4), weights(part.output, 4))
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    same = ("epoch", "loss", "val_loss", "val_f1", "lr")
    for one, other in zip(*map(rows_of, (whole.output, part.output)), strict=True):
        assert [one[name] for name in same] == [other[name] for name in same]


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / HISTORY_FILE).read_text().splitlines()]


def command(config: TrainConfig, *more: str) -> list[str]:
    return [
        "-m", "train", "--shards", str(config.shards), "--output", str(config.output),
        "--epochs", str(config.epochs), "--batch", str(config.batch), "--width", "4",
        "--depth", "2", "--loader", config.loader, *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_weights(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path / "killed", epochs=16)
    process = subprocess.Popen(
        [sys.executable, *command(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while not epoch_files(config.output) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(epoch_files(config.output)) > 0
    assert not epoch_file(config.output, 16).exists(), "the run was over before it was killed"
    fit(config, resume=True)
    whole = replace(config, output=tmp_path / "whole")
    fit(whole)
    assert_same(weights(whole.output, 16), weights(config.output, 16))


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["dali", "portable"])
def test_two_processes_train_like_one(pack_root: Path, tmp_path: Path, loader: str) -> None:
    alone = small(pack_root, tmp_path / "alone", epochs=3, loader=loader)
    fit(alone)
    shared = replace(alone, output=tmp_path / "shared")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, *command(shared)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es)" in done.stderr
    assert done.stdout.count("val F1") == 1, "only the first process speaks"
    for one, other in zip(rows_of(alone.output), rows_of(shared.output), strict=True):
        for name in ("loss", "val_loss"):
            assert one[name] == pytest.approx(other[name], rel=1e-3)
        assert one["val_f1"] == pytest.approx(other["val_f1"], abs=0.01)
    one, other = weights(alone.output, 1), weights(shared.output, 1)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-2, atol=2e-3, msg=name)


def test_resume_with_other_settings_names_the_difference(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path, epochs=1)
    fit(config)
    with pytest.raises(InputError, match=r"lr=0\.005, now it is 0\.5"):
        fit(replace(config, lr=0.5), resume=True)


def test_resume_on_another_pack_is_refused(pack_root: Path, faces: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    pack(PackConfig(faces, other, PackSettings(size=64, seed=9), workers=1))
    config = small(pack_root, tmp_path / "out", epochs=1)
    fit(config)
    with pytest.raises(InputError, match="was trained on another pack"):
        fit(replace(config, shards=other), resume=True)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_run_stopped_at_any_save_goes_on_whole(
    pack_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Whichever file was last written, --resume ends with the same files as without a stop."""
    config = small(pack_root, tmp_path / "stopped", epochs=2)
    save, calls = Checkpoint.save, 0

    def interrupted(self: Checkpoint, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        save(self, path)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", interrupted)
        fit(config)
    resumed = fit(config, resume=True)
    whole = fit(replace(config, output=tmp_path / "whole"))
    assert resumed.best.epoch == whole.best.epoch
    assert_same(Checkpoint.load(resumed.model_path).weights,
                Checkpoint.load(whole.model_path).weights)  # fmt: skip
    assert_same(weights(config.output, 2), weights(tmp_path / "whole", 2))
    assert len(rows_of(config.output)) == 2


def test_resume_of_a_finished_run_changes_nothing(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path, epochs=1)
    fit(config)
    before = epoch_file(tmp_path, 1).read_bytes()
    result = fit(config, resume=True)
    assert len(result.history) == 1
    assert epoch_file(tmp_path, 1).read_bytes() == before


def test_earlier_run_is_moved_aside_not_overwritten(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path, epochs=1)
    fit(config)
    first = (tmp_path / MODEL_FILE).read_bytes()
    fit(replace(config, seed=1))
    assert (tmp_path / "previous-001" / MODEL_FILE).read_bytes() == first
    assert (tmp_path / MODEL_FILE).read_bytes() != first


def test_loss_that_is_not_finite_ends_the_run(pack_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Lower --lr"):
        fit(small(pack_root, tmp_path, lr=1e30, clip=0.0, epochs=6))


def test_pack_must_fit_the_network(pack_root: Path, tmp_path: Path) -> None:
    deep = ModelConfig(width=1, depth=6, stem=2)
    with pytest.raises(InputError, match="multiple of 128"):
        fit(small(pack_root, tmp_path, model=deep))


def test_averaging_and_clipping_can_be_switched_off(pack_root: Path, tmp_path: Path) -> None:
    fit(small(pack_root, tmp_path, epochs=1, ema=0.0, clip=0.0))
    stored = Checkpoint.load(epoch_file(tmp_path, 1))
    assert_same(stored.weights, stored.training["model"])


def test_gpu_without_native_bfloat16_takes_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def native(including_emulation: bool = True) -> bool:
        return including_emulation  # as on a T4: emulated only

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", native)
    assert amp_dtype("auto", torch.device("cuda")) is torch.float16


def test_mixed_precision_is_off_on_a_cpu_unless_asked_for(pack_root: Path, tmp_path: Path) -> None:
    assert amp_dtype("auto", torch.device("cpu")) is None
    assert amp_dtype("bf16", torch.device("cpu")) is torch.bfloat16
    result = fit(small(pack_root, tmp_path, epochs=1, amp="bf16"))
    assert result.history[0].loss > 0


def test_training_begins_with_given_weights(pack_root: Path, tmp_path: Path) -> None:
    first = small(pack_root, tmp_path / "first")
    fit(first)
    given = Checkpoint.load(first.output / MODEL_FILE).weights
    again = small(
        pack_root, tmp_path / "again", epochs=1, lr=1e-7, muon_lr=0.0, ema=0.0,
        init=first.output / MODEL_FILE,
    )  # fmt: skip
    fit(again)
    fit(replace(again, init=None, output=tmp_path / "new"))

    def farthest(output: Path) -> float:
        found = Checkpoint.load(output / MODEL_FILE).weights
        names = [name for name in given if name.endswith("weight")]
        return max(float((found[name] - given[name]).abs().max()) for name in names)

    assert farthest(again.output) < 1e-4  # hardly a step is taken
    assert farthest(tmp_path / "new") > 1e-3
    with pytest.raises(InputError, match="has the shape.*--width"):
        fit(replace(again, model=ModelConfig(width=8, depth=2)))
    with pytest.raises(InputError, match="does not exist"):
        fit(replace(again, init=tmp_path / "none.pth"))

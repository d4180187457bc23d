"""Training for real, on small data: it learns, goes on bit for bit, and may be shared out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from preprocess.errors import InputError
from preprocess.manifest import EyeCount, Manifest, PackSettings
from preprocess.pack import PackConfig, pack
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, epoch_files
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.device import amp_dtype
from train.loop import _warning, fit
from train.report import compare
from train.run_folder import HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT, SETTINGS_FILE

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
    result = fit(small(pack_root, tmp_path, epochs=4))
    names = {path.name for path in tmp_path.iterdir()}
    assert {MODEL_FILE, HISTORY_FILE, HISTORY_PLOT, PREDICTIONS_PLOT, SETTINGS_FILE} <= names
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
        shards, tmp_path / "out", epochs=40, batch=8, lr=5e-3,
        model=ModelConfig(width=8, depth=3), augment=AugmentConfig.off(),
    )  # fmt: skip
    result = fit(config)
    assert result.history[-1].val_f1 > 0.5
    assert result.history[-1].loss < 0.6 * result.history[0].loss


@pytest.mark.parametrize(("loader", "cache"), [("dali", "off"), ("portable", "auto")])
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(
    pack_root: Path, tmp_path: Path, loader: str, cache: str
) -> None:
    whole = small(pack_root, tmp_path / "whole", epochs=4, loader=loader, cache=cache)
    fit(whole)
    part = replace(whole, output=tmp_path / "part")
    fit(part)
    epoch_file(part.output, 4).unlink()  # as if the run had ended after three epochs
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
        "--epochs", str(config.epochs), "--batch", str(config.batch), "--loader", config.loader,
        *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_weights(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path / "killed", epochs=8, model=ModelConfig())
    process = subprocess.Popen(
        [sys.executable, *command(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while not epoch_files(config.output) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(epoch_files(config.output)) > 0
    assert not epoch_file(config.output, 8).exists(), "the run was over before it was killed"
    fit(config, resume=True)
    whole = replace(config, output=tmp_path / "whole")
    fit(whole)
    assert_same(weights(whole.output, 8), weights(config.output, 8))


@pytest.mark.parametrize("loader", ["dali", "portable"])
def test_loader_and_store_make_no_difference_to_the_weights(
    pack_root: Path, tmp_path: Path, loader: str
) -> None:
    fit(small(pack_root, tmp_path / "kept", cache="auto"))
    fit(small(pack_root, tmp_path / "streamed", loader=loader, cache="off"))
    assert_same(weights(tmp_path / "kept", 2), weights(tmp_path / "streamed", 2))


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["dali", "portable"])
def test_two_processes_train_one_model(pack_root: Path, tmp_path: Path, loader: str) -> None:
    """Same batches, shared gradients; batch statistics are each process's own on a CPU."""
    alone = replace(TrainConfig(pack_root, tmp_path / "alone", epochs=3, batch=4), loader=loader)
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
    one, other = (Checkpoint.load(epoch_file(c.output, 1)) for c in (alone, shared))
    # Another sample in a batch, or gradients that are not shared, would show in the first epoch.
    for name, value in one.training["model"].items():
        if name.endswith("weight") and value.ndim == 4:
            given = other.training["model"][name]
            cosine = torch.cosine_similarity(value.flatten(), given.flatten(), dim=0)
            assert float(cosine) > 0.98, name
    rows = [rows_of(config.output) for config in (alone, shared)]
    assert rows[1][0]["loss"] == pytest.approx(rows[0][0]["loss"], rel=0.05)
    assert rows[1][-1]["loss"] < rows[1][0]["loss"]


def test_a_batch_that_processes_cannot_share_is_refused_by_all(
    pack_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from train import loop
    from train.distributed import Processes

    config = small(pack_root, tmp_path)
    with pytest.raises(InputError, match="cannot be shared by 3"):
        loop._fit(config, False, Processes(1, 3), torch.device("cpu"))


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


def test_a_model_that_a_kill_left_from_another_epoch_is_written_again(
    pack_root: Path, tmp_path: Path
) -> None:
    config = small(pack_root, tmp_path)
    result = fit(config)
    good = Checkpoint.load(result.model_path)
    replace(good, epoch=99, calibration={}).save(result.model_path)
    assert fit(config, resume=True).best.epoch == good.epoch
    assert_same(Checkpoint.load(result.model_path).weights, good.weights)
    result.model_path.unlink()
    fit(config, resume=True)
    assert Checkpoint.load(result.model_path).calibration == good.calibration


def test_resume_needs_no_longer_what_the_run_began_with(pack_root: Path, tmp_path: Path) -> None:
    fit(small(pack_root, tmp_path / "first", epochs=1))
    begun = tmp_path / "first" / MODEL_FILE
    config = small(pack_root, tmp_path / "second", epochs=1, init=begun)
    fit(config)
    begun.unlink()
    assert len(fit(replace(config, epochs=2), resume=True).history) == 2


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
        fit(small(pack_root, tmp_path, lr=1e30, epochs=6))


def test_pack_must_fit_the_network(pack_root: Path, tmp_path: Path) -> None:
    deep = ModelConfig(width=1, depth=6)
    with pytest.raises(InputError, match="multiple of 128"):
        fit(small(pack_root, tmp_path, model=deep))


def test_gpu_without_native_bfloat16_takes_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def native(including_emulation: bool = True) -> bool:
        return including_emulation  # as on a T4: emulated only

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", native)
    assert amp_dtype("auto", torch.device("cuda")) is torch.float16


def test_mixed_precision_is_off_on_a_cpu_unless_asked_for(pack_root: Path, tmp_path: Path) -> None:
    assert amp_dtype("auto", torch.device("cpu")) is None
    assert amp_dtype("bf16", torch.device("cpu")) is torch.bfloat16
    plain = fit(small(pack_root, tmp_path / "off", epochs=1))
    for amp in ("bf16", "fp16"):
        result = fit(small(pack_root, tmp_path / amp, epochs=1, amp=amp))
        assert result.history[0].loss != plain.history[0].loss
        assert result.history[0].loss == pytest.approx(plain.history[0].loss, rel=0.02)


def test_resume_with_more_epochs_goes_on(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path)
    first = fit(config)
    longer = fit(replace(config, epochs=4), resume=True)
    assert longer.history[:2] == first.history
    assert [record.epoch for record in longer.history] == [1, 2, 3, 4]
    assert json.loads((tmp_path / SETTINGS_FILE).read_text())["settings"]["epochs"] == 4
    assert Checkpoint.load(longer.model_path).calibration


def test_settings_of_a_run_are_written_with_every_name(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path, seed=7)
    fit(config)
    written = json.loads((tmp_path / SETTINGS_FILE).read_text())
    assert written["settings"].keys() == {field.name for field in fields(TrainConfig)}
    assert written["settings"]["seed"] == 7
    assert written["settings"]["augment"]["blur"] == {"probability": 0.2, "strength": 3.5}
    assert "revision" in written["source"]


def test_without_val_samples_nothing_is_called_val(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "pack"
    pack(PackConfig(faces, root, PackSettings(size=64), split="train", workers=1))
    result = fit(small(root, tmp_path / "out"))
    assert result.judged_by == "train"
    said = capsys.readouterr().err
    assert "train F1" in said
    assert "val F1" not in said
    assert not Checkpoint.load(result.model_path).calibration


def test_an_f1_of_0_is_a_warning_with_its_cause(pack_root: Path, tmp_path: Path) -> None:
    config = small(pack_root, tmp_path / "short", epochs=1, lr=1e-9)
    short = fit(config)
    assert short.best.val_f1 == 0
    assert "val F1 is 0: 5 steps may be too few" in short.warning
    blind = replace(Manifest.load(pack_root).split("train"), eyes=EyeCount(none=20))
    assert "no sample of train shows an eye" in _warning(short.best, "val", config, blind)
    assert _warning(replace(short.best, val_f1=0.1), "val", config, blind) == ""


def test_compare_shows_figures_and_what_differs(pack_root: Path, tmp_path: Path) -> None:
    configs = [small(pack_root, tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    best = [fit(config).best for config in configs]
    table = compare([config.output for config in configs], tmp_path / "compare.png").splitlines()
    assert len(table) == 3
    assert table[0].split()[-1] == "seed", "the only setting that differs"
    for line, config, record in zip(table[1:], configs, best, strict=True):
        assert line.startswith(str(config.output))
        assert f"{record.val_f1:.4f}" in line
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.width > 600
    with pytest.raises(InputError, match="holds no run"):
        compare([tmp_path], tmp_path / "x.png")


def test_a_full_disk_while_an_epoch_is_written_ends_the_run(
    pack_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are written beside the next epoch: what goes wrong there must not be lost."""

    def full(self: Checkpoint, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        fit(small(pack_root, tmp_path))


def test_training_begins_with_given_weights(pack_root: Path, tmp_path: Path) -> None:
    first = small(pack_root, tmp_path / "first")
    fit(first)
    given = Checkpoint.load(first.output / MODEL_FILE).weights
    again = small(
        pack_root, tmp_path / "again", epochs=1, lr=1e-8, init=first.output / MODEL_FILE,
    )  # fmt: skip
    fit(again)
    fit(replace(again, init=None, output=tmp_path / "new"))

    def farthest(output: Path) -> float:
        found = Checkpoint.load(output / MODEL_FILE).weights
        names = [name for name in given if name.endswith("weight")]
        return max(float((found[name] - given[name]).abs().max()) for name in names)

    assert farthest(again.output) < 1e-4  # hardly a step is taken
    assert farthest(tmp_path / "new") > 1e-3
    with pytest.raises(InputError, match="has the shape.*Give weights of this shape"):
        fit(replace(again, model=ModelConfig(width=8, depth=2)))
    with pytest.raises(InputError, match="does not exist"):
        fit(replace(again, init=tmp_path / "none.pth"))

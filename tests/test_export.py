"""Weights to ship: what is in the file, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from infer import Predictor
from infer.weights import PATH, load_bundled
from preprocess.errors import InputError
from preprocess.pack import PackConfig, pack
from train.checkpoint import Checkpoint
from train.config import ModelConfig
from train.evaluate import evaluate_checkpoint
from train.model import InputSpec, UNet, flop_count, parameter_count


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = ModelConfig(width=4, depth=2)
    return Checkpoint(
        config, InputSpec(64), UNet(config).state_dict(), threshold=0.43,
        calibration={"scale": 0.9, "shift": 0.1}, metrics={"f1": 0.5}, epoch=3,
        source={"revision": "abc"}, training={"optimizers": []},
    )  # fmt: skip


def test_a_released_model_predicts_what_its_checkpoint_does(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "eyes.safetensors"
    digest = checkpoint.export(path)
    again = Checkpoint.load(path, sha256=digest)
    assert again == replace(checkpoint, weights=again.weights, training={})
    square = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    before, after = (Predictor(c).predict(square, "whole").probability for c in (checkpoint, again))
    assert np.abs(before - after).max() < 2e-3
    assert Checkpoint.load(path).threshold == 0.43, "--model takes such files too"


def test_equal_weights_give_equal_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    one, other = (checkpoint.export(tmp_path / f"{n}.safetensors") for n in "ab")
    assert one == other


def test_changed_or_wrong_files_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "eyes.safetensors"
    digest = checkpoint.export(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"eyes\.safetensors: cannot be read as a model.*differs from the checksum"
    ):
        Checkpoint.load(path, sha256=digest)
    path.write_bytes(data[:100])
    with pytest.raises(InputError, match="cannot be read as a model of this program"):
        Checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="cannot be read as a model of this program"):
        Checkpoint.load(path)
    with pytest.raises(InputError, match="does not exist"):
        Checkpoint.load(tmp_path / "no.safetensors")
    with pytest.raises(InputError, match=r"Expected \.safetensors"):
        checkpoint.export(tmp_path / "eyes.pth")


def test_export_writes_file_and_checksum(face_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    command = ["-m", "train", "export", "--model", str(face_model), "--output", str(path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    digest, name = path.with_suffix(".sha256").read_text().split()
    assert name == path.name
    assert digest in done.stdout
    Checkpoint.load(path, sha256=digest)


def test_bundled_weights_are_whole_small_and_within_the_budget() -> None:
    checkpoint = load_bundled()
    assert PATH.stat().st_size <= 8_000_000
    assert parameter_count(checkpoint.network()) <= 2_000_000
    assert flop_count(checkpoint.network(), 256) <= 2_000_000_000
    assert checkpoint.spec.size == 256
    assert 0.05 < checkpoint.threshold < 0.95
    assert checkpoint.calibration["error"] <= checkpoint.calibration["error_before"]
    with safe_open(PATH, framework="pt") as file:
        assert json.loads(file.metadata()["eye_segmentation"])["source"]["torch"]
    card = PATH.with_name("README.md").read_text()
    assert "non-commercial" in card
    assert f"{checkpoint.threshold:.3f}" in card


@pytest.mark.slow
def test_bundled_weights_segment_genuine_eyes(genuine: Path, tmp_path: Path) -> None:
    for name, split, least in (("CelebAMask-HQ", None, 0.885), ("london-faces", "test", 0.88)):
        pack(PackConfig(genuine / name, tmp_path / name, split=split))
        run = evaluate_checkpoint(PATH, tmp_path / name, "test", loader="portable")
        assert run.evaluation.metrics.f1 > least


def test_bundled_weights_that_are_missing_or_changed_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("infer.weights.PATH", tmp_path / "eyes.safetensors")
    with pytest.raises(InputError, match=r"eyes\.sha256: is missing"):
        load_bundled()
    (tmp_path / "eyes.sha256").write_text("0" * 64 + "  eyes.safetensors\n")
    with pytest.raises(InputError, match="does not exist"):
        load_bundled()
    (tmp_path / "eyes.safetensors").write_bytes(PATH.read_bytes())
    with pytest.raises(InputError, match="cannot be read as a model.*differs from the checksum"):
        load_bundled()

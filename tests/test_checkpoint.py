"""Weights: what is in a checkpoint and in a file to ship, and what is refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from common import Patch, flip
from safetensors import safe_open
from safetensors.torch import save_file

from infer.network import BUNDLED, TorchNetwork
from preprocess.errors import InputError
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, pack
from train.checkpoint import Checkpoint, epoch_file, epoch_files
from train.config import ModelConfig
from train.evaluate import evaluate_checkpoint
from train.model import InputSpec, UNet, flop_count, parameter_count

CONFIG, PATH = ModelConfig(width=4, depth=2), BUNDLED.with_suffix(".safetensors")


def made() -> Checkpoint:
    torch.manual_seed(0)
    spec = InputSpec(size=64, mean=(1.0, 2.0, 3.0), std=(40.0, 50.0, 60.0))
    return Checkpoint(
        CONFIG, spec, UNet(CONFIG).state_dict(), threshold=0.43,
        calibration={"scale": 0.9, "shift": 0.1}, metrics={"f1": 0.5}, epoch=3,
        source={"revision": "abc"}, training={"optimizers": []},
    )  # fmt: skip


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved, path = made(), tmp_path / "folder" / "model.pth"
    saved.save(path)
    loaded = Checkpoint.load(path)
    assert replace(loaded, weights={}) == replace(saved, weights={})
    assert loaded.weights.keys() == saved.weights.keys()
    assert all(torch.equal(loaded.weights[name], value) for name, value in saved.weights.items())
    replace(saved, source={}).save(path)
    assert set(Checkpoint.load(path).source) == {"revision", "version", "torch"}
    images = 255 * torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.build()(images), 0.9 * saved.network()(images) + 0.1)
    assert [p.name for p in path.parent.iterdir()] == ["model.pth"], "no temporary file is left"


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').touch()",)


def test_a_file_from_a_stranger_runs_no_code(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format_version": 2, "model": _Evil()}, "evil.pth")
    with pytest.raises(InputError, match="cannot be read as a model"):
        Checkpoint.load(Path("evil.pth"))
    assert not Path("ran").exists()


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with pytest.raises(InputError, match="model.pth: does not exist"):
        Checkpoint.load(path)
    made().save(path)
    whole, stored = path.read_bytes(), torch.load(path, weights_only=True)
    stored["model"]["attention"] = True
    contents = [b"not a checkpoint", whole[:2000], pickle.dumps({"a": 1})]
    for other in ({"state_dict": {}}, stored):
        torch.save(other, path)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(InputError, match="model.pth: cannot be read as a model"):
            Checkpoint.load(path)
        path.touch()


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    Checkpoint(ModelConfig(width=3, depth=2), InputSpec(), made().weights).save(tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth: .* does not fit the network"):
        Checkpoint.load(tmp_path / "x.pth")


def test_epoch_files_are_in_order_of_epochs(tmp_path: Path) -> None:
    for epoch in (2, 10, 1):
        epoch_file(tmp_path, epoch).touch()
    (tmp_path / "model_checkpoint_epoch_last.pth").touch()
    assert epoch_files(tmp_path) == [epoch_file(tmp_path, epoch) for epoch in (1, 2, 10)]


def test_files_of_before_are_read(tmp_path: Path) -> None:
    """Version 2 had stem and detail as settings, and the calibration among the weights."""
    made().save(tmp_path / "model.pth")
    stored = torch.load(tmp_path / "model.pth", weights_only=True)
    stored["model"] |= {"stem": 2, "detail": 8}
    stored["weights"]["calibration"] = torch.tensor([0.5, 0.0, 0.0, 0.0])
    stored["calibration"] = {"scale": 0.5, "shift": 0.0, "bend": 0.0, "knee": 0.0, "error": 0.1}
    torch.save(stored, tmp_path / "old.pth")
    images = torch.full((1, 3, 64, 64), 100.0)
    old, new = (Checkpoint.load(tmp_path / name) for name in ("old.pth", "model.pth"))
    with torch.inference_mode():
        torch.testing.assert_close(old.build()(images), 0.5 * new.network()(images))
    stored["model"]["stem"] = 4
    torch.save(stored, tmp_path / "stem.pth")
    with pytest.raises(InputError, match="stem of the network is not 2"):
        Checkpoint.load(tmp_path / "stem.pth")


def test_a_released_model_predicts_what_its_checkpoint_does(tmp_path: Path) -> None:
    checkpoint, path = made(), tmp_path / "eyes.safetensors"
    digest = checkpoint.export(path)
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("coarse.weight").dtype is torch.float16, "half the size"
    assert made().export(tmp_path / "again.safetensors") == digest, "equal bytes"
    again = Checkpoint.load(path, sha256=digest)
    assert again == replace(checkpoint, weights=again.weights, training={})
    square = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
    checkpoint.save(path.with_suffix(".pth"))
    before, after = (TorchNetwork(file, "cpu")(square) for file in (path.with_suffix(".pth"), path))
    assert np.abs(before - after).max() < 2e-3


def test_changed_or_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "eyes.safetensors"
    digest = made().export(path)
    flip(path, -1)
    with pytest.raises(InputError, match="cannot be read as a model.*differs from the checksum"):
        Checkpoint.load(path, sha256=digest)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read as a model of this program"):
        Checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="cannot be read as a model of this program"):
        Checkpoint.load(path)
    with pytest.raises(InputError, match=r"Expected \.onnx or \.safetensors"):
        made().export(tmp_path / "eyes.pth")


def test_bundled_weights_are_whole_small_and_within_the_budget() -> None:
    checkpoint = Checkpoint.load(PATH)
    assert PATH.stat().st_size <= 8_000_000
    assert parameter_count(checkpoint.network()) <= 2_000_000
    assert flop_count(checkpoint.network(), 256) <= 2_000_000_000
    assert checkpoint.spec.size == 384
    assert [pack["samples"] for pack in checkpoint.data] == [676, 641], "what they learnt from"
    assert 0.05 < checkpoint.threshold < 0.95
    assert checkpoint.calibration["error"] <= checkpoint.calibration["error_before"]
    with safe_open(PATH, framework="pt") as file:
        assert json.loads(file.metadata()["eye_segmentation"])["source"]["torch"]
    card = PATH.with_name("README.md").read_text()
    assert "non-commercial" in card
    assert f"{checkpoint.threshold:.3f}" in card


@pytest.mark.slow
def test_bundled_weights_segment_genuine_eyes(genuine: Path, tmp_path: Path) -> None:
    for name, split, least in (("CelebAMask-HQ", None, 0.89), ("london-faces", "test", 0.91)):
        pack(PackConfig(genuine / name, tmp_path / name, PackSettings(size=384), split=split))
        run = evaluate_checkpoint(PATH, tmp_path / name, "test", loader="portable")
        assert run.evaluation.metrics.f1 > least

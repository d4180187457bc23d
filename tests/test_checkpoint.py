import pickle
from pathlib import Path

import pytest
import torch

from preprocess.errors import InputError
from train.checkpoint import Checkpoint, epoch_file, epoch_files
from train.config import ModelConfig
from train.model import InputSpec, UNet

CONFIG = ModelConfig(width=4, depth=2)


def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    spec = InputSpec(size=64, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    weights = UNet(CONFIG).state_dict()
    return Checkpoint(CONFIG, spec, weights, threshold=0.4, metrics={"f1": 0.5}, epoch=3)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved, path = checkpoint(), tmp_path / "folder" / "model.pth"
    saved.save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.model, loaded.spec, loaded.threshold) == (saved.model, saved.spec, 0.4)
    assert (loaded.metrics, loaded.epoch) == ({"f1": 0.5}, 3)
    assert set(loaded.source) == {"revision", "version", "torch"}
    images = 255 * torch.rand(1, 3, 64, 64)
    expected = UNet(CONFIG, saved.spec)
    expected.load_state_dict(saved.weights)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.build()(images), expected.eval()(images), rtol=1e-4, atol=1e-3
        )
    assert [p.name for p in path.parent.iterdir()] == ["model.pth"], "no temporary file is left"


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('ran').touch()",)


def test_a_file_from_a_stranger_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format_version": 2, "model": _Evil()}, "evil.pth")
    with pytest.raises(InputError, match="cannot be read as a model"):
        Checkpoint.load(Path("evil.pth"))
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", ["nothing", "text", "half", "other", "pickle", "unknown key"])
def test_unusable_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.pth"
    if content == "text":
        path.write_text("not a checkpoint")
    elif content == "half":
        checkpoint().save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "other":
        torch.save({"state_dict": {}}, path)
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif content == "unknown key":
        checkpoint().save(path)
        stored = torch.load(path, weights_only=True)
        stored["model"]["attention"] = True
        torch.save(stored, path)
    with pytest.raises(InputError, match="model.pth"):
        Checkpoint.load(path)


def test_weights_of_another_shape_are_refused() -> None:
    wrong = Checkpoint(ModelConfig(width=8, depth=2), InputSpec(), checkpoint().weights)
    with pytest.raises(InputError, match="do not fit"):
        wrong.build()


def test_epoch_files_are_in_order_of_epochs(tmp_path: Path) -> None:
    for epoch in (2, 10, 1):
        epoch_file(tmp_path, epoch).touch()
    (tmp_path / "model_checkpoint_epoch_last.pth").touch()
    assert epoch_files(tmp_path) == [epoch_file(tmp_path, epoch) for epoch in (1, 2, 10)]


def test_files_of_before_are_read(tmp_path: Path) -> None:
    """Version 2 had stem and detail as settings, and the calibration among the weights."""
    checkpoint().save(tmp_path / "model.pth")
    stored = torch.load(tmp_path / "model.pth", weights_only=True)
    stored["model"] |= {"stem": 2, "detail": 8}
    stored["weights"]["calibration"] = torch.tensor([0.5, 0.0, 0.0, 0.0])
    stored["calibration"] = {"scale": 0.5, "shift": 0.0, "bend": 0.0, "knee": 0.0, "error": 0.1}
    torch.save(stored, tmp_path / "old.pth")
    images = torch.full((1, 3, 64, 64), 100.0)
    old, new = (Checkpoint.load(tmp_path / name) for name in ("old.pth", "model.pth"))
    with torch.inference_mode():
        torch.testing.assert_close(old.build()(images), 0.5 * new.build()(images))
    stored["model"]["stem"] = 4
    torch.save(stored, tmp_path / "stem.pth")
    with pytest.raises(InputError, match="stem of the network is not 2"):
        Checkpoint.load(tmp_path / "stem.pth")

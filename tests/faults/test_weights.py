"""Damaged and crafted weights end in one line that names the file, never in an answer."""

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from common import call, fails, tiny
from safetensors.torch import save_file

import infer.cli
import train.cli
from preprocess.errors import InputError
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_files
from train.config import TrainConfig
from train.loop import fit

NAN, INF = float("nan"), float("inf")
Change = Callable[[dict[str, Any]], Any]


def put(*path: str, value: object) -> Change:
    """Change one entry of a nested dictionary."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        place = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return content

    return change


def poison(value: float) -> Change:
    def change(content: dict[str, Any]) -> dict[str, Any]:
        content["weights"]["encoder.0.0.weight"][0, 0, 1, 1] = value
        return content

    return change


CRAFTED: dict[str, Change] = {
    "a weight that is not a number": poison(NAN),
    "an infinite weight": poison(INF),
    "threshold nan": put("threshold", value=NAN),
    "threshold abc": put("threshold", value="abc"),
    "threshold 2": put("threshold", value=2.0),
    "two deviations": put("input", "std", value=[1.0, 2.0]),
    "deviation 0": put("input", "std", value=[1.0, 2.0, 0.0]),
    "mean nan": put("input", "mean", value=[NAN, 1.0, 1.0]),
    "size 0": put("input", "size", value=0),
    "size as text": put("input", "size", value="256"),
    "size that is no multiple": put("input", "size", value=65),
    "width as a fraction": put("model", "width", value=8.0),
    "a network of gigabytes": put("model", value={"width": 256, "depth": 6}),
    "calibration nan": put("calibration", value={"scale": NAN}),
    "calibration as text": put("calibration", value="none"),
    "epoch as text": put("epoch", value="last"),
    "one weight less": lambda content: content["weights"].popitem() and content,
}
ONLY_PTH: dict[str, Change] = {
    "a bare tensor": lambda content: content["weights"]["head.weight"],
    "a list of weights": lambda content: list(content["weights"].values()),
    "weights as a list": lambda content: {**content, "weights": list(content["weights"].values())},
    "a weight that is a number": put("weights", "head.bias", value=1.0),
    "training as a list": put("training", value=[1]),
}


def forged(content: Any, path: Path) -> Path:
    """Write a changed checkpoint in the format that the ending names."""
    if path.suffix == ".pth":
        torch.save(content, path)
    else:
        weights = {name: value.contiguous() for name, value in content.pop("weights").items()}
        del content["training"]
        save_file(weights, path, {"eye_segmentation": json.dumps(content)})
    return path


@pytest.fixture(scope="module")
def stored(whole: TrainConfig) -> Path:
    return whole.output / MODEL_FILE


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".pth", name) for name in CRAFTED | ONLY_PTH] + [(".safetensors", name) for name in CRAFTED],
)
def test_crafted_weights_are_refused(stored: Path, tmp_path: Path, suffix: str, name: str) -> None:
    content = torch.load(stored, weights_only=True)
    path = forged((CRAFTED | ONLY_PTH)[name](content), tmp_path / f"model{suffix}")
    with pytest.raises(InputError) as refused:
        Checkpoint.load(path)
    assert str(refused.value).startswith(f"{path}: cannot be read as a model")
    assert "give another --model" in str(refused.value)


def test_unchanged_weights_pass_and_leave_the_random_numbers_alone(
    stored: Path, tmp_path: Path
) -> None:
    for suffix in (".pth", ".safetensors"):
        path = forged(torch.load(stored, weights_only=True), tmp_path / f"model{suffix}")
        before = torch.get_rng_state()
        assert Checkpoint.load(path).threshold == Checkpoint.load(stored).threshold
        assert torch.equal(torch.get_rng_state(), before)


def test_nested_metadata_is_refused(tmp_path: Path) -> None:
    path, deep = tmp_path / "deep.safetensors", "[" * 100_000 + "]" * 100_000
    header = json.dumps({"__metadata__": {"eye_segmentation": deep}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match=r"deep\.safetensors: cannot be read as a model"):
        Checkpoint.load(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_commands_name_the_file_in_one_line(
    stored: Path, pack_root: Path, faces: Path, tmp_path: Path, suffix: str
) -> None:
    content = poison(NAN)(torch.load(stored, weights_only=True))
    path = forged(content, tmp_path / f"model{suffix}")
    photo, out = faces / "CelebA-HQ-img" / "1.jpg", tmp_path / "out"
    for command, words in (
        (train.cli.main, ("evaluate", "--shards", pack_root, "--model", path)),
        (train.cli.main, ("--shards", pack_root, "--output", out, "--init", path)),
        (infer.cli.main, ("--image", photo, "--model", path, "--output", tmp_path / "x.png")),
    ):
        fails(call(command, *words), str(path), "encoder.0.0.weight is not finite", "--model")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("flipped", range(0, 4000, 160))
def test_a_flipped_or_cut_file_is_refused_or_read_alike(
    stored: Path, tmp_path: Path, flipped: int
) -> None:
    """The end of a .pth lists its parts: damage there is seen; elsewhere it may move a weight."""
    data = bytearray(stored.read_bytes())
    data[-1 - flipped] ^= 0x55
    for content in (data, data[: -1 - flipped]):
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        with suppress(InputError):  # nothing else is raised
            Checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [put("training", "optimizers", value=[]), put("training", "history", value=[{"epoch": 1}]),
     put("training", "model", "head.bias", value=torch.zeros(3)),
     put("training", "model", "head.bias", value=torch.tensor([NAN]))],
    ids=["optimizers", "history", "shape", "nan"],
)  # fmt: skip
def test_resume_refuses_a_damaged_state(
    whole: TrainConfig, pack_root: Path, tmp_path: Path, change: Change
) -> None:
    shutil.copytree(whole.output, tmp_path / "run")
    path = epoch_files(tmp_path / "run")[-1]
    forged(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(InputError, match=f"{path.name}: .*(without --resume|another --model)"):
        fit(replace(tiny(pack_root, tmp_path / "run"), epochs=5), resume=True)

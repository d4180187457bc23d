"""Some hundred damaged files, the same in every run: each is read, or named by an `InputError`."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import Blind, write_clip

from infer.network import OnnxNetwork
from infer.predictor import Predictor
from preprocess.errors import InputError

VALUES: list[Any] = [None, True, 0, -1, 1, 31, 64, 1 << 40, 0.5, 1e-300, -0.0, float("nan"),
                     float("inf"), "", "64", "\0", [], [64], {}, {"size": 64},
                     "x" * 5000]  # fmt: skip


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flip, repeat, cut out or overwrite a part; mostly near the front, where the headers are."""
    at = min(int(chance.expovariate(4 / len(data))), len(data) - 1)
    length = chance.choice([1, 1, 2, 4, 8, 64])
    part = data[at : at + length]
    new = chance.choice([
        bytes([part[0] ^ 1 << chance.randrange(8)]) + part[1:], chance.randbytes(len(part)),
        b"\xff" * len(part), b"\0" * len(part), b"", part * 3,
    ])  # fmt: skip
    whole = data[:at] + new + data[at + length :]
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.1 else whole


def counts(name: str, read: Callable[[Path], object], files: Iterator[bytes], place: Path) -> int:
    """Read all of the files; return how many were refused, each by an error that names it."""
    path, errors = place / name, []
    for data in files:
        path.write_bytes(data)
        try:
            read(path)
        except InputError as error:
            errors.append(str(error))
    for said in errors:
        assert str(path) in said
        assert len(said.splitlines()) == 1
    return len(errors)


def test_metadata_of_a_network(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from test_networks import FACTS, model

    chance, made = random.Random(0), model()

    def files() -> Iterator[bytes]:
        for _ in range(200):
            facts: Any = json.loads(json.dumps(FACTS))
            for _ in range(chance.randrange(1, 3)):
                name = chance.choice([*FACTS, "more", "input"])
                facts[name] = chance.choice(VALUES)
            text = json.dumps(facts)
            if chance.random() < 0.5:
                text = damaged(text.encode(), chance).decode(errors="replace")
            onnx.helper.set_model_props(made, {"eye_segmentation": text})
            yield made.SerializeToString()

    def read(path: Path) -> None:
        network = OnnxNetwork(path, threads=1)
        assert 0 < network.threshold < 1
        assert 0 < network.stride <= network.size <= 4096

    assert 100 < counts("fuzzed.onnx", read, files(), tmp_path) < 200


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_video_containers(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    from infer.video import segment_video

    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{ending}"
    write_clip(whole, noise, frames=6, width=64, height=48)
    data, chance = whole.read_bytes(), random.Random(ending)
    predictor = Predictor(Blind())  # type: ignore[arg-type]

    def read(path: Path) -> None:
        segment_video(predictor, path, tmp_path / "out.mkv", faces="whole")

    files = (damaged(damaged(data, chance), chance) for _ in range(50))
    refused = counts(f"fuzzed.{ending}", read, files, tmp_path)
    assert 2 < refused < 48, "some are read all the same"
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {f"whole.{ending}", f"fuzzed.{ending}", "out.mkv"}

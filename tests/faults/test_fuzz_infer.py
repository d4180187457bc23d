"""Damaged weights, runs and videos end in a result or an `InputError` (see `test_fuzz`)."""

from pathlib import Path

import numpy as np
import pytest
from common import write_clip
from test_fuzz import ROUNDS, tried

from train.checkpoint import MODEL_FILE, Checkpoint
from train.config import TrainConfig
from train.export import export_onnx
from train.run_folder import HISTORY_FILE, SETTINGS_FILE

TORCH = 8000  # megabytes of addresses that torch maps, most of them never touched

# Of a .pth the list of its parts is at the end, of the others at the front.
WEIGHTS = """
import torch
from infer.network import open_network
from train.checkpoint import Checkpoint

torch.set_num_threads(1)
target = Path(sys.argv[5])
forwards = 1 if sys.argv[4] != "pth-end" else -1

def read(data):
    target.write_bytes(data[::forwards])
    if target.suffix == ".onnx":
        network = open_network(target, "cpu", 1)
        assert 0 < network.threshold < 1 and 0 < network.stride <= network.size <= 4096
    else:
        weights = Checkpoint.load(target).weights
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())

tried(target.read_bytes()[::forwards], read)
"""

RUN = """
from train.run_folder import read_run

target = Path(sys.argv[5])

def read(data):
    target.write_bytes(data)
    settings, history = read_run(target.parent)
    assert isinstance(settings, dict)
    assert all(record.line(9, "val", record) for record in history)

tried(target.read_bytes(), read)
"""

VIDEO = """
sys.path.insert(0, sys.argv[6])
from common import Blind
from infer.predictor import Predictor
from infer.video import segment_video

target, predictor = Path(sys.argv[5]), Predictor(Blind())
out = target.with_name("out.mkv")

def read(data):
    target.write_bytes(data)
    segment_video(predictor, target, out, faces="whole")

tried(target.read_bytes(), read)
"""


@pytest.mark.parametrize("kind", ["pth", "pth-end", "safetensors", "onnx"])
def test_weights(kind: str, whole: TrainConfig, tmp_path: Path) -> None:
    model = Checkpoint.load(whole.output / MODEL_FILE)
    target = tmp_path / f"model.{kind.removesuffix('-end')}"
    if kind == "onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
        export_onnx(model, target)
    else:
        model.save(target)
    tried(kind, WEIGHTS, tmp_path, target, megabytes=TORCH)


@pytest.mark.parametrize("name", [SETTINGS_FILE, HISTORY_FILE])
def test_runs(name: str, copy: TrainConfig, tmp_path: Path) -> None:
    tried(name, RUN, tmp_path, copy.output / name, megabytes=TORCH)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_video_containers(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    target = tmp_path / f"clip.{ending}"
    write_clip(target, noise, frames=6, width=64, height=48)
    tests = Path(__file__).parents[1]
    tried(ending, VIDEO, tmp_path, target, tests, rounds=ROUNDS // 4, megabytes=4000)
    assert {path.name for path in tmp_path.iterdir()} <= {target.name, "out.mkv"}

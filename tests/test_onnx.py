"""The network as ONNX: as torch, without torch, and as docs/onnx.md says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from common import iou, loaded, python, read_mask

from infer import Predictor
from infer.network import BUNDLED, OnnxNetwork, TorchNetwork, bundled_digest, open_network
from preprocess.errors import InputError
from preprocess.image import decode_rgb
from train.checkpoint import Checkpoint
from train.export import check_onnx, export_onnx, pictures

ROOT = Path(__file__).resolve().parents[1]


def test_bundled_files_are_one_network() -> None:
    onnx = open_network()
    torch = TorchNetwork(BUNDLED.with_suffix(".safetensors"), "cpu")
    assert isinstance(onnx, OnnxNetwork)
    assert (onnx.size, onnx.stride, onnx.threshold) == (torch.size, torch.stride, torch.threshold)
    rng = np.random.default_rng(0)
    for shape in ((1, 96, 192, 3), (3, 256, 256, 3), (2, 32, 64, 3)):
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_allclose(onnx(images), torch(images), atol=4e-3)


def test_export_says_everything_and_is_checked(face_model: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(face_model)
    path = tmp_path / "mine.onnx"
    digest = export_onnx(checkpoint, path)
    assert digest == export_onnx(checkpoint, tmp_path / "again.onnx")
    check = check_onnx(checkpoint, path, pictures(96, None, 8))
    assert (check.samples, check.iou) == (8, pytest.approx(1, abs=1e-3))
    network = OnnxNetwork(path, sha256=digest)
    assert (network.size, network.threshold) == (96, checkpoint.threshold)
    export_onnx(checkpoint, tmp_path / "half.onnx", half=True)
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * path.stat().st_size
    other = replace(checkpoint, calibration={"shift": 1.0})
    with pytest.raises(InputError, match=r"mine\.onnx: masks differ from torch's"):
        check_onnx(other, path, pictures(96, None, 8))


def test_files_that_are_no_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "eyes.onnx"
    data = bytearray(BUNDLED.read_bytes())
    data[-1] ^= 1
    for content, problem in ((b"", "cannot be read"), (data[:1000], "cannot be read"),
                             (data, "differs from the checksum")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=problem):
            OnnxNetwork(path, sha256=bundled_digest(BUNDLED) if content is data else None)
    with pytest.raises(InputError, match="does not exist"):
        OnnxNetwork(tmp_path / "no.onnx")
    with pytest.raises(InputError, match=r"is 'cuda' for an \.onnx file"):
        open_network(BUNDLED, "cuda")


def test_segmenting_imports_no_training_framework(photo: Path, tmp_path: Path) -> None:
    names = loaded("infer", "--image", photo, "--output", tmp_path / "a.png", "--json")
    assert not names & {"torch", "nvidia", "webdataset", "matplotlib", "train"}
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == "eye-segmentation/1"


@pytest.mark.parametrize("turned", [0, 25])
def test_the_example_of_the_docs_marks_our_mask(turned: int, faces: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "onnx.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "infer").symlink_to(ROOT / "infer")
    predictor, scores = Predictor.bundled("cpu"), []
    for number in range(6):
        rgb = decode_rgb((faces / "CelebA-HQ-img" / f"{number}.jpg").read_bytes())
        matrix = cv2.getRotationMatrix2D((128, 128), turned, 1.6)
        matrix[:, 2] += 100
        rgb = np.asarray(cv2.warpAffine(rgb, matrix, (456, 456), borderValue=(90, 110, 130)))
        prediction = predictor.predict(rgb, 1)
        if len(prediction.eyes) < 2:
            continue
        cv2.imwrite(str(tmp_path / "face.png"), rgb[..., ::-1])
        done = python("-c", code, tmp_path / "face.png", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        scores.append(iou(read_mask(tmp_path / "eyes.png"), prediction.mask))
    assert len(scores) >= 2
    assert np.mean(scores) > 0.93

"""Platforms without DALI: everything works, through the portable loader, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

WITHOUT_DALI = "import sys; sys.modules['nvidia'] = None; sys.modules['nvidia.dali'] = None\n"


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which DALI cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_DALI + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def call(package: str, *args: object) -> subprocess.CompletedProcess[str]:
    return run(f"import {package}.cli; {package}.cli.main(sys.argv[1:])", *args)


@pytest.fixture(scope="module")
def model(pack_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("output")
    done = call("train", "--shards", pack_root, "--output", output, "--epochs", 1, "--batch", 4)
    assert done.returncode == 0, done.stderr
    assert "portable loader" in done.stderr
    return output / "eye_segmentation_model.pth"


def test_evaluation_and_inference_run(model: Path, pack_root: Path, faces: Path) -> None:
    done = call("train", "evaluate", "--shards", pack_root, "--model", model)
    assert done.returncode == 0, done.stderr
    assert "F1, both eyes merged" in done.stdout
    photo, result = faces / "CelebA-HQ-img" / "1.jpg", model.parent / "result.png"
    done = call("infer", "--image", photo, "--model", model, "--output", result)
    assert done.returncode == 0, done.stderr
    with Image.open(result) as panel:
        assert panel.size == (3 * 256, 256)


def test_check_says_which_reader_it_had(pack_root: Path) -> None:
    done = call("preprocess", "check", "--shards", pack_root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("read through webdataset: ok")


def test_asking_for_dali_is_refused_with_the_remedy(pack_root: Path, tmp_path: Path) -> None:
    done = call("train", "--shards", pack_root, "--output", tmp_path, "--loader", "dali")
    assert done.returncode == 2
    assert "NVIDIA DALI is not installed" in done.stderr
    assert "--loader portable" in done.stderr

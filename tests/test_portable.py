"""Platforms without DALI: everything works, through the portable loader, and says so."""

from pathlib import Path

from common import python
from PIL import Image

WITHOUT_DALI = """
import sys
sys.modules["nvidia"] = sys.modules["nvidia.dali"] = None
from click.testing import CliRunner
import infer.cli, preprocess.cli, train.cli
shards, photo, out = sys.argv[1:]
model = f"{out}/eye_segmentation_model.pth"
fit = ["--shards", shards, "--output", out, "--epochs", "1", "--batch", "4"]
for command, words, code, said in (
    (train.cli.main, fit, 0, "portable loader"),
    (train.cli.main, [*fit, "--loader", "dali"], 2, "NVIDIA DALI is not installed"),
    (train.cli.main, [*fit, "--loader", "dali"], 2, "--loader portable"),
    (train.cli.main, ["evaluate", "--shards", shards, "--model", model], 0, "F1, both eyes merged"),
    (infer.cli.main, ["--image", photo, "--model", model, "--output", f"{out}/result.png"], 0, ""),
    (preprocess.cli.main, ["check", "--shards", shards], 0, "read through webdataset: ok"),
):
    done = CliRunner().invoke(command, words)
    assert (done.exit_code, said in done.output) == (code, True), (words, done.output)
"""


def test_all_programs_run_without_dali(pack_root: Path, faces: Path, tmp_path: Path) -> None:
    words = (pack_root, faces / "CelebA-HQ-img" / "1.jpg", tmp_path)
    done = python("-c", WITHOUT_DALI, *words)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "result.png") as panel:
        assert panel.size == (3 * 256, 256)

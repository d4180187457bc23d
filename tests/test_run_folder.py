"""A run's folder: it goes on bit for bit after any end, and nothing in it is lost."""

from dataclasses import replace
from pathlib import Path

import pytest
from common import assert_same, assert_same_run
from PIL import Image

from preprocess.errors import InputError
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, pack
from preprocess.runtime import dali_is_installed
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, epoch_files
from train.config import TrainConfig
from train.loop import fit
from train.report import compare
from train.run_folder import SETTINGS_FILE, read_run

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.mark.parametrize(("loader", "cache"), [("dali", "off"), ("portable", "auto")])
def test_a_resumed_run_ends_with_the_same_weights_whatever_decodes(
    whole: TrainConfig, copy: TrainConfig, loader: str, cache: str
) -> None:
    if loader == "dali" and not dali_is_installed():
        pytest.skip("NVIDIA DALI is not installed")
    epoch_file(copy.output, 4).unlink()  # as if the run had ended after three epochs
    fit(replace(copy, loader=loader, cache=cache), resume=True)
    assert_same_run(copy.output, whole.output)


def test_a_model_of_another_epoch_is_written_again(whole: TrainConfig, copy: TrainConfig) -> None:
    path = copy.output / MODEL_FILE
    good = Checkpoint.load(path)
    replace(good, epoch=99, calibration={}).save(path)
    assert fit(copy, resume=True).best.epoch == Checkpoint.load(path).epoch == good.epoch
    assert_same(path, whole.output / MODEL_FILE)
    path.unlink()
    fit(copy, resume=True)
    assert Checkpoint.load(path).calibration == good.calibration


def test_a_finished_run_stays_or_goes_on(whole: TrainConfig, copy: TrainConfig) -> None:
    again = fit(copy, resume=True)
    for path in epoch_files(whole.output):
        assert (copy.output / path.name).read_bytes() == path.read_bytes()
    longer = fit(replace(copy, epochs=5), resume=True)
    assert longer.history[:4] == again.history
    settings, rows = read_run(copy.output)
    assert (settings["epochs"], [row.epoch for row in rows]) == (5, [1, 2, 3, 4, 5])
    assert Checkpoint.load(longer.model_path).calibration


def test_resume_names_what_is_different(whole: TrainConfig, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lr=0\.01, now it is 0\.5"):
        fit(replace(whole, lr=0.5), resume=True)
    pack(PackConfig(faces, tmp_path, PackSettings(size=64, seed=9), workers=1))
    with pytest.raises(InputError, match="was trained on another pack"):
        fit(replace(whole, shards=tmp_path), resume=True)


def test_an_earlier_run_is_moved_aside_not_overwritten(copy: TrainConfig) -> None:
    before = {path.name: path.read_bytes() for path in copy.output.glob("[!.]*")}
    fit(replace(copy, epochs=1, seed=1))
    aside = copy.output / "previous-001"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert (copy.output / MODEL_FILE).read_bytes() != before[MODEL_FILE]
    assert not epoch_file(copy.output, 4).exists()


def test_compare_shows_what_differs(whole: TrainConfig, copy: TrainConfig, tmp_path: Path) -> None:
    path = copy.output / SETTINGS_FILE
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    table = compare([whole.output, copy.output], tmp_path / "compare.png").splitlines()
    assert len(table) == 3
    assert table[0].split()[-1] == "seed", "the only setting that differs but for the folder"
    best = max(row.val_f1 for row in read_run(whole.output)[1])
    for line, config, seed in zip(table[1:], (whole, copy), "07", strict=True):
        assert line.startswith(str(config.output))
        assert f"{best:.4f}" in line
        assert line.split()[-1] == seed
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.width > 600
    with pytest.raises(InputError, match="holds no run"):
        compare([tmp_path], tmp_path / "x.png")

"""Training's command line: tables, files, presets, one-line errors, and what the docs say of it."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from common import TWO_PROCESSES, Patch, call, fails, python
from PIL import Image

from preprocess.errors import InputError
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, pack
from train.checkpoint import MODEL_FILE, Checkpoint
from train.cli import fit as fit_command
from train.cli import main
from train.config import AMP, LOADERS, PRESETS, AugmentConfig, Effect, TrainConfig
from train.evaluate import evaluate_checkpoint
from train.split import Split


@pytest.fixture
def trained(whole: TrainConfig) -> Path:
    return whole.output / MODEL_FILE


def test_evaluate_writes_tables_and_pictures(
    trained: Path, pack_root: Path, tmp_path: Path
) -> None:
    words = ("evaluate", "--shards", pack_root, "--model", trained, "--output", tmp_path)
    done = call(main, *words, "--split", "train")
    assert done.exit_code == 0, done.stderr
    assert "process tuning: " in done.stderr
    for part in ("F1, both eyes merged", "mean IoU per image", "precision", "false pixels"):
        assert part in done.stdout
    name = f"{pack_root.name}_train"
    content = json.loads((tmp_path / f"evaluation_{name}.json").read_bytes())
    assert len(content["iou"]) == content["metrics"]["images"] == 20
    assert 0 <= content["reliability"]["error"] <= 1
    for plot in ("reliability", "worst", "median", "best"):
        with Image.open(tmp_path / f"{plot}_{name}.png") as picture:
            assert np.asarray(picture).std() > 20
    assert not list(tmp_path.glob("stress_*"))

    done = call(main, *words, "--stress", "--no-tune")  # of test, where no split is given
    assert done.exit_code == 0, done.stderr
    assert "process tuning off" in done.stderr
    for name in ("closing lids", "roll", "no eye: painted over", "medium"):
        assert name in done.stdout
    name = f"{pack_root.name}_test"
    content = json.loads((tmp_path / f"evaluation_{name}.json").read_bytes())
    assert content["metrics"]["images"] == 2
    assert len(json.loads((tmp_path / f"stress_{name}.json").read_bytes())["rows"]) == 13
    with Image.open(tmp_path / f"stress_{name}.png") as picture:
        assert picture.width > 600


def test_training_ends_with_calibrated_weights(trained: Path, pack_root: Path) -> None:
    checkpoint = Checkpoint.load(trained)
    assert {"scale", "shift", "bend", "knee", "error"} <= checkpoint.calibration.keys()
    evaluation = evaluate_checkpoint(trained, pack_root, "val", loader="portable").evaluation
    assert evaluation.metrics.f1 == pytest.approx(checkpoint.metrics["f1"])
    best = evaluation.histogram.best_threshold()
    assert checkpoint.threshold == pytest.approx(best, abs=1e-3)


def test_evaluation_does_not_depend_on_loader_batch_or_processes(
    face_model: Path, face_shards: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    base = evaluate_checkpoint(face_model, face_shards, "train", loader="auto").evaluation
    for batch, loader in ((3, "auto"), (1, "portable")):
        monkeypatch.setattr("train.evaluate._CPU_BATCH", batch)
        again = evaluate_checkpoint(face_model, face_shards, "train", loader=loader).evaluation
        assert (again.metrics, again.iou) == (base.metrics, base.iou)
    words = ["evaluate", "--shards", face_shards, "--split", "train", "--model", face_model]
    done = python(*TWO_PROCESSES, *words, "--output", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = tmp_path.glob("*.json")
    content = json.loads(written.read_bytes())
    assert content["metrics"] == asdict(base.metrics)
    keys = Split.open(face_shards, "train").keys(np.array(list(base.iou), np.int32))
    assert content["iou"] == pytest.approx(dict(zip(keys, base.iou.values(), strict=True)))


FIT = "--shards PACK --output out "


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shards nowhere", "nowhere/manifest.json: does not exist"),
        ("evaluate --shards PACK --model no.pth", "no.pth: does not exist"),
        ("evaluate --shards PACK --model PACK/manifest.json", "cannot be read as a model"),
        (FIT + "--seed -1", "--seed: is -1"),
        (FIT + "--output file", "file"),
        (FIT + "--device cuda:7", "--device: is 'cuda:7'"),
        (FIT + "--device tpu", "--device: is 'tpu'"),
        (FIT + "--epochs 0", "--epochs: is 0"),
        (FIT + "--batch 999", "--batch: is 999"),
        (FIT + "--augment blur=x", "--augment blur=x"),
        (FIT + "--cache much", "--cache: is 'much'"),
        ("compare PACK", "holds no run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    pack_root: Path, tmp_path: Path, monkeypatch: Patch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    fails(call(main, *words.replace("PACK", str(pack_root)).split()), message)


def test_size_of_pack_and_model_must_agree(trained: Path, faces: Path, tmp_path: Path) -> None:
    pack(PackConfig(faces, tmp_path, PackSettings(size=32), workers=1))
    with pytest.raises(InputError, match="Pack with --size 64"):
        evaluate_checkpoint(trained, tmp_path, "test")


def test_presets_are_defaults_that_options_override(monkeypatch: Patch) -> None:
    seen: list[TrainConfig] = []

    def fit(config: TrainConfig, resume: bool) -> None:
        seen.append(config)
        raise InputError("stop", "here", "that is enough")

    monkeypatch.setattr("train.loop.fit", fit)
    monkeypatch.setattr("preprocess.runtime.tune_process", lambda tune: "")
    for words in ("", "--preset recipe", "--seed 5 --preset recipe", "--preset fast"):
        assert call(main, "--shards", "x", *words.split()).exit_code == 2
    assert [(run.epochs, run.seed) for run in seen] == [(25, 0), (64, 2), (64, 5), (24, 0)]
    plain, *_, fast = (run.augment for run in seen)
    assert (fast.hide.probability, fast.blur) == (0, Effect(0.1, 2.0))
    assert plain == AugmentConfig()


def test_the_help_repeats_the_defaults_and_offers_what_there_is() -> None:
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    options = {parameter.name: parameter for parameter in fit_command.params}
    said = CliRunner().invoke(main, ["fit", "--help"]).output
    for name in ("epochs", "batch", "lr", "seed", "output"):
        assert not isinstance(options[name].default, (int, float, str)), "TrainConfig has them"
        assert f"[default: {defaults[name]}]" in " ".join(said.split())
    for name, choices in (("preset", PRESETS), ("amp", AMP), ("loader", LOADERS)):
        assert tuple(options[name].type.choices) == tuple(choices)


def test_every_setting_stands_in_the_docs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    for parameter in fit_command.params:
        for option in parameter.opts:
            assert f"`{option}" in text, option
    for name in ("crop", *AugmentConfig().effects()):
        assert f"`{name}`" in text, name


def test_export_writes_file_and_checksum(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    done = call(main, "export", "--model", trained, "--output", path)
    assert done.exit_code == 0, done.stderr
    digest, name = path.with_suffix(".safetensors.sha256").read_text().split()
    assert name == path.name
    assert digest in done.stdout
    Checkpoint.load(path, sha256=digest)

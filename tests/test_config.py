import math
from dataclasses import replace
from pathlib import Path

import pytest

from preprocess.errors import InputError
from train.config import AugmentConfig, Crop, Effect, ModelConfig, TrainConfig, Window, model_config


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ("blur=off", Effect(0.0, 0.0)),
        ("blur=0", Effect(0.0, 0.0)),
        ("blur=1.5", Effect(0.2, 1.5)),
        ("blur=0.4:1.5", Effect(0.4, 1.5)),
    ],
)
def test_augmentation_is_changed_by_name(change: str, effect: Effect) -> None:
    changed = AugmentConfig().with_changes((change,))
    assert changed.blur == effect
    assert changed.flip == AugmentConfig().flip


@pytest.mark.parametrize("change", ["blurr=1", "blur=strong", "blur=2:1", "scale=7", "flip"])
def test_unusable_augmentation_change_is_refused(change: str) -> None:
    with pytest.raises(InputError, match="--augment"):
        AugmentConfig().with_changes((change,))


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch": 0},
        {"lr": 0.0},
        {"ema": 1.0},
        {"amp": "half"},
        {"keep": 0},
        {"seed": -1},
        {"clip": -1.0},
        {"warmup": -1.0},
        {"lr": math.inf},
        {"lr": math.nan},
    ],
)
def test_train_config_is_checked(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(bad))}"):
        TrainConfig(Path("shards"), **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"stem": 3}, {"depth": 0}, {"width": 0}])
def test_model_config_is_checked(bad: dict[str, int]) -> None:
    with pytest.raises(InputError):
        ModelConfig(**bad)


def test_unknown_key_of_a_stored_config_fails() -> None:
    with pytest.raises(ValueError, match="unknown key 'wide'"):
        model_config({"wide": 3})


def test_place_and_machine_do_not_decide_the_weights() -> None:
    here = TrainConfig(Path("a"), output=Path("x"), threads=1, loader="dali")
    there = TrainConfig(Path("b"), output=Path("y"), threads=8, loader="portable")
    assert here.decides() == there.decides()
    assert here.decides() != TrainConfig(Path("a"), lr=0.5).decides()


def test_crop_is_whole_strides_inside_the_picture() -> None:
    assert Crop().window(256, 32) == Window(128, 160, 0.25)
    assert Crop().window(96, 32) == Window(64, 64, 0.25)
    assert Crop(1, 1).window(64, 16) == Window(64, 64, 0.25)
    assert Crop(0.1, 0.1).window(64, 32) == Window(32, 32, 0.25)
    assert Crop.parse("0.25x0.5") == Crop(0.25, 0.5)
    assert Crop.parse("off") is None


def test_softened_augmentation_is_half_as_much() -> None:
    augment = AugmentConfig()
    soft = augment.softened()
    assert soft.flip == augment.flip
    assert soft.rotation == Effect(augment.rotation.probability, augment.rotation.strength / 2)
    assert soft.blur == Effect(augment.blur.probability / 2, augment.blur.strength)
    assert AugmentConfig.off().softened() == AugmentConfig.off()


def test_stages_grow_first_and_settle_last() -> None:
    config = TrainConfig(Path("x"), epochs=10, settle=0.2, grow=0.3)
    stages = [config.stage(epoch) for epoch in range(10)]
    assert [stage.augment == config.augment.softened() for stage in stages] == [False] * 8 + [
        True
    ] * 2
    assert [stage.crop == config.crop for stage in stages] == [False] * 3 + [True] * 7
    small, large = (stages[epoch].crop.window(256, 32) for epoch in (0, 9))
    assert (small.height, small.width) == (96, 128)
    assert (large.height, large.width) == (128, 160)
    assert replace(config, crop=None).stage(0).crop is None
    assert len(set(stages)) == 3

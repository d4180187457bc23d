import math
from dataclasses import replace
from pathlib import Path

import pytest

from preprocess.errors import InputError
from train.config import AugmentConfig, Crop, Effect, ModelConfig, TrainConfig


def test_augmentation_is_changed_by_name() -> None:
    blurs = {"blur=off": Effect(0.0, 0.0), "blur=0": Effect(0.0, 0.0), "blur=1.5": Effect(0.2, 1.5),
             "blur=0.4:1.5": Effect(0.4, 1.5)}  # fmt: skip
    for change, effect in blurs.items():
        assert AugmentConfig().with_changes((change,)) == replace(AugmentConfig(), blur=effect)
    assert AugmentConfig().with_changes(("crop=0.25x0.5",)).crop == Crop(0.25, 0.5)
    assert AugmentConfig().with_changes(("crop=off",)).crop is None
    assert AugmentConfig().with_changes(("off",)) == AugmentConfig.off()
    only = AugmentConfig().with_changes(("off", "blur=0.5:2"))
    assert only.effects() == AugmentConfig.off().effects() | {"blur": Effect(0.5, 2.0)}


@pytest.mark.parametrize(
    "change", ["blurr=1", "blur=strong", "blur=2:1", "scale=7", "flip", "crop=big", "crop=2x1"]
)
def test_unusable_augmentation_change_is_refused(change: str) -> None:
    with pytest.raises(InputError, match="--augment"):
        AugmentConfig().with_changes((change,))


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": math.inf}, {"lr": math.nan}, {"amp": "half"},
     {"seed": -1}],
)  # fmt: skip
def test_settings_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(bad))}"):
        TrainConfig(Path("shards"), **bad)  # type: ignore[arg-type]
    for shape in ({"depth": 7}, {"depth": 0}, {"width": 0}):
        with pytest.raises(InputError):
            ModelConfig(**shape)


def test_place_and_machine_do_not_decide_the_weights() -> None:
    here = TrainConfig(Path("a"), output=Path("x"), epochs=3, loader="dali")
    there = TrainConfig(Path("b"), output=Path("y"), epochs=9, loader="portable")
    assert here.decides() == there.decides()
    assert here.decides() != TrainConfig(Path("a"), lr=0.5).decides()


def test_crop_is_whole_strides_inside_the_picture() -> None:
    assert Crop().pixels(256, 32) == (128, 160)
    assert Crop().pixels(96, 32) == (64, 64)
    assert Crop(1, 1).pixels(64, 16) == (64, 64)
    assert Crop(0.1, 0.1).pixels(64, 32) == (32, 32)
    assert Crop(0.1, 0.1).pixels(64, 4) == (16, 16), "JPEG works on blocks of 16"


def test_softened_augmentation_is_half_as_much() -> None:
    augment = AugmentConfig()
    soft = augment.softened()
    assert soft.flip == augment.flip
    assert soft.rotation == Effect(augment.rotation.probability, augment.rotation.strength / 2)
    assert soft.blur == Effect(augment.blur.probability / 2, augment.blur.strength)
    assert AugmentConfig.off().softened() == AugmentConfig.off()
    hiding = augment.with_changes(("lids=0.5:1", "glasses=0.5:0.8", "shade=0.5:0.9"))
    for name in ("hide", "lids", "glasses", "shade"):
        assert hiding.softened().effects()[name] == hiding.effects()[name], "it stays to the end"


def test_stages_grow_first_and_settle_last() -> None:
    config = TrainConfig(Path("x"), epochs=10, settle=0.2, grow=0.3)
    stages = [config.stage(epoch) for epoch in range(10)]
    soft = [stage.rotation == config.augment.softened().rotation for stage in stages]
    assert soft == [False] * 8 + [True] * 2
    assert [stage.crop == config.augment.crop for stage in stages] == [False] * 3 + [True] * 7
    sizes = [stages[epoch].crop.pixels(256, 32) for epoch in (0, 9)]  # type: ignore[union-attr]
    assert sizes == [(96, 128), (128, 160)]
    whole = replace(config, augment=AugmentConfig().with_changes(("crop=off",)))
    assert whole.stage(0).crop is None
    assert len(set(stages)) == 3

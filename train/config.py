"""Settings of a training run: frozen, checked when built, unknown keys refused.

What is here is what a user would turn. Everything else is a constant beside its use.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from preprocess.errors import InputError, require
from preprocess.storage import Place

AMP = ("auto", "bf16", "fp16", "off")
LOADERS = ("auto", "dali", "portable")
VERIFY = ("on", "off")
_CROP_MULTIPLE = 16  # JPEG's blocks of 8 x 8, with chroma at half the size
_EARLY = 0.75  # of a crop's sides, while crops have not grown yet: half the pixels
# The largest strength of an effect, if it is not 1.
_STRONGEST = {"larger": 9.0, "aspect": 4.0, "smaller": 0.9, "rotation": 180.0, "blur": 16.0,
              "noise": 255.0, "jpeg": 99.0}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the U-Net."""

    width: int = 16  # channels of the first level; every level below has twice as many
    depth: int = 4  # halvings after the stem

    def __post_init__(self) -> None:
        for name, value, most in (("width", self.width, 256), ("depth", self.depth, 6)):
            right = type(value) is int and 1 <= value <= most
            require(right, name, f"is {value!r}", f"a whole number, 1 to {most}")

    @property
    def stride(self) -> int:
        """Input sides must be multiples of this."""
        return int(2 ** (self.depth + 1))


@dataclass(frozen=True)
class Effect:
    """One augmentation: how often, and how strong (its unit is the effect's own)."""

    probability: float
    strength: float


_OFF = Effect(0.0, 0.0)


@dataclass(frozen=True)
class Crop:
    """Train on parts of the pictures, most of them around the eyes.

    Eyes are one pixel in a hundred. A part of a third of the area, placed where they are, teaches
    as much in a third of the time, and no longer says where in a picture eyes have to be.
    """

    height: float = 0.5  # shares of the picture's side
    width: float = 0.625

    def pixels(self, size: int, stride: int) -> tuple[int, int]:
        """Return height and width in pixels for pictures of side `size`."""
        step = max(stride, _CROP_MULTIPLE)
        height, width = (round(share * size / step) for share in (self.height, self.width))
        return min(size, max(1, height) * step), min(size, max(1, width) * step)


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentations of training, in the order in which they are applied.

    `hide`, `lids` and the geometric ones change image and mask together. The rest imitates what is
    worn, light, cameras and file formats, and changes the image only. A strength of 1 means nothing
    to `flip` and `grey`.
    """

    crop: Crop | None = Crop()  # None shows whole pictures
    flip: Effect = Effect(0.5, 1.0)
    # Scale, even on a log scale, up to 1 + strength and down to 1 - strength.
    larger: Effect = Effect(1.0, 0.35)
    smaller: Effect = Effect(1.0, 0.55)
    # Stretch in one direction and shrink in the other: sides in a ratio of up to 1 + strength, as
    # a turned head or a half closed eye has them.
    aspect: Effect = Effect(1.0, 0.5)
    rotation: Effect = Effect(1.0, 20.0)  # degrees, to either side
    translation: Effect = Effect(1.0, 0.08)  # share of the side; crops have their own scatter
    # Cover a rectangle, mostly on an eye, of up to strength x the sides (half as much again if it
    # is to cover both, and by the distance of the eyes if it comes from beside). What it hides is
    # no eye any more.
    hide: Effect = Effect(0.5, 0.3)
    # The next three serve long runs: 16 epochs of drawn faces lose 0.015 of F1 by them.
    # Let the upper lids come down, over up to this share of the opening, mostly altogether.
    lids: Effect = Effect(0.0, 1.0)
    glasses: Effect = Effect(0.0, 0.8)  # lenses that keep up to this share of the light away
    shade: Effect = Effect(0.0, 0.97)  # up to this share of the light is lost, or a shadow falls
    light: Effect = Effect(0.8, 0.3)  # brightness and contrast, each a factor in 1 +- strength
    colour: Effect = Effect(0.4, 0.3)  # saturation, in 1 +- strength; hue, +- 60 degrees x strength
    grey: Effect = Effect(0.05, 1.0)
    blur: Effect = Effect(0.2, 3.5)  # standard deviation of a Gaussian, up to so many pixels
    noise: Effect = Effect(0.1, 12.0)  # standard deviation, up to so many levels of 255
    jpeg: Effect = Effect(0.15, 70.0)  # at a quality between 100 - strength and 90

    def __post_init__(self) -> None:
        if self.crop:
            height, width = self.crop.height, self.crop.width
            problem, right = f"is {height:g}x{width:g}", 0 < height <= 1 and 0 < width <= 1
            require(right, "--augment crop", problem, "shares of the side, 0 to 1")
        for name, effect in self.effects().items():
            where = f"--augment {name}"
            chance, strength, top = effect.probability, effect.strength, _STRONGEST.get(name, 1.0)
            require(0 <= chance <= 1, where, f"has probability {chance}", "0 to 1")
            require(0 <= strength <= top, where, f"has strength {strength}", f"0 to {top:g}")

    def effects(self) -> dict[str, Effect]:
        """Return the effects by name: everything but the crop."""
        return {name: value for name, value in vars(self).items() if name != "crop"}

    @classmethod
    def off(cls) -> AugmentConfig:
        """Return settings that change nothing."""
        return cls(None, **dict.fromkeys(cls().effects(), _OFF))

    def softened(self) -> AugmentConfig:
        """Return these settings at half the strength or, if strength means nothing, as often.

        What hides eyes stays as it is: half of it costs F1 under covers (docs/recipe.md).
        """
        by_strength = {"larger", "smaller", "aspect", "rotation", "translation"}
        kept = {"flip", "hide", "lids", "glasses", "shade"}
        changed: dict[str, Any] = {}
        for name, effect in self.effects().items():
            if name in by_strength:
                changed[name] = replace(effect, strength=effect.strength / 2)
            elif name not in kept:
                changed[name] = replace(effect, probability=effect.probability / 2)
        return replace(self, **changed)

    def with_changes(self, changes: tuple[str, ...]) -> AugmentConfig:
        """Apply changes written off, NAME=off, NAME=STRENGTH, NAME=PROBABILITY:STRENGTH, crop=HxW.

        Raises
        ------
        InputError
            If a change names no augmentation or no number.
        """
        config = self
        for change in changes:
            if change == "off":
                config = self.off()
                continue
            name, _, value = change.partition("=")
            where, known = f"--augment {change}", ("crop", *self.effects())
            require(name in known, where, f"{name!r} is no augmentation", ", ".join(known))
            new: Any
            try:
                if value == "off":
                    new = None if name == "crop" else _OFF
                elif name == "crop":
                    height, width = map(float, value.split("x"))
                    new = Crop(height, width)
                else:
                    chance, colon, strength = value.rpartition(":")
                    often = float(chance) if colon else config.effects()[name].probability
                    new = Effect(often, float(strength)) if float(strength) else _OFF
            except ValueError:
                example = "0.5x0.625" if name == "crop" else "0.3 or 0.5:0.3"
                problem = f"{value!r} is not readable"
                raise InputError(where, problem, f"Write off, {example}") from None
            config = replace(config, **{name: new})
        return config


@dataclass(frozen=True)
class TrainConfig:
    """A whole run; docs/training.md says more of each setting."""

    shards: Place | tuple[Place, ...]  # a pack, or several
    output: Place = Path("output")
    weights: tuple[float, ...] = ()  # how often an epoch shows each pack's samples; empty: once
    epochs: int = 25
    batch: int = 16  # samples in a step, of all processes together
    accumulate: int = 1  # parts of a step: a process computes one after the other
    lr: float = 5e-3  # peak rate of AdamW; the filters' is a multiple of it (train.optimizer)
    seed: int = 0  # decides first weights, order and augmentation
    init: Place | None = None  # weights to begin with
    device: str = "auto"
    amp: str = "auto"
    loader: str = "auto"
    cache: str = "auto"  # memory for decoded samples: auto, off or gigabytes
    verify: str = "on"  # whether shards are held against their checksums when they are first read
    # Share of the epochs, at the end, with softer augmentation: the pictures that the network is
    # for come last.
    settle: float = 0.2
    grow: float = 0.0  # share of the epochs, at the start, on smaller crops
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        count, right = len(self.weights), all(0 < weight < 100 for weight in self.weights)
        problem = f"is {', '.join(f'{weight:g}' for weight in self.weights)}"
        require(right, "--weight", problem, "above 0, below 100")
        require(count in (0, len(self.packs)), "--weight", f"is given {count} times",
                f"as often as --shards: {len(self.packs)}")  # fmt: skip
        require(self.epochs >= 1, "--epochs", f"is {self.epochs}", "1 or more")
        require(self.batch >= 1, "--batch", f"is {self.batch}", "1 or more")
        require(self.accumulate >= 1, "--accumulate", f"is {self.accumulate}", "1 or more")
        require(0 < self.lr < math.inf, "--lr", f"is {self.lr}", "a number above 0")
        require(0 <= self.seed < 2**63, "--seed", f"is {self.seed}", "0 up to 2^63")
        require(0 <= self.settle <= 1, "settle", f"is {self.settle}", "0 to 1")
        require(0 <= self.grow <= 1, "grow", f"is {self.grow}", "0 to 1")
        require(self.amp in AMP, "--amp", f"is {self.amp!r}", ", ".join(AMP))
        require(self.loader in LOADERS, "--loader", f"is {self.loader!r}", ", ".join(LOADERS))
        require(self.verify in VERIFY, "--verify", f"is {self.verify!r}", ", ".join(VERIFY))

    @property
    def packs(self) -> tuple[Place, ...]:
        """The folders of all packs."""
        return self.shards if isinstance(self.shards, tuple) else (self.shards,)

    def stage(self, epoch: int) -> AugmentConfig:
        """Return how the samples of an epoch, counted from 0, are augmented."""
        augment = self.augment
        if epoch >= self.epochs - round(self.settle * self.epochs):
            augment = augment.softened()
        if augment.crop and epoch < round(self.grow * self.epochs):
            small = Crop(_EARLY * augment.crop.height, _EARLY * augment.crop.width)
            augment = replace(augment, crop=small)
        return augment

    def decides(self) -> dict[str, Any]:
        """Return the settings that decide the weights: those must not change on --resume.

        A run may go on to more epochs than it had.
        """
        free = {"shards", "output", "epochs", "init", "device", "loader", "cache", "verify"}
        return {key: value for key, value in asdict(self).items() if key not in free}


# Other defaults, by name: docs/recipe.md, docs/speedrun.md.
PRESETS: dict[str, dict[str, Any]] = {
    # CelebAMask-HQ alone, in squares of 256.
    "recipe": {"epochs": 64, "seed": 2},
    # From there to the bundled weights: several packs, in squares of 384. Crops have nearly the
    # same pixels, so a step costs nearly the same; blur and noise are as strong to the eye.
    "closer": {
        "epochs": 48, "lr": 3e-3, "augment": AugmentConfig().with_changes(
            ("crop=0.3333x0.5", "blur=0.25:5", "noise=0.15:14", "lids=0.12:1",
             "glasses=0.12:0.8", "shade=0.12:0.97")),
    },
    # Fewest seconds to nearly the recipe's val F1: nothing is hidden, no stretching, less shrinking
    # and blur, because val shows none of them.
    "fast": {
        "epochs": 24, "settle": 0.0, "grow": 0.3, "augment": AugmentConfig().with_changes(
            ("hide=off", "aspect=off", "smaller=0.26", "blur=0.1:2")),
    },
}  # fmt: skip

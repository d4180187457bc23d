"""Settings of a training run: frozen, checked when built, unknown keys refused."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from preprocess.errors import InputError
from preprocess.manifest import from_fields


def require(true: bool, where: str, problem: str, expected: str) -> None:
    """Raise an `InputError` unless a condition holds."""
    if not true:
        raise InputError(where, problem, f"Expected {expected}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the U-Net.

    Attributes
    ----------
    width
        Channels of the first level; every level below has twice as many.
    depth
        Number of halvings after the stem.
    stem
        Stride of the first convolution, 1, 2 or 4; the decoder predicts stem x stem pixels at once.
    detail
        Channels of a branch at full resolution that sharpens the result; 0 leaves it out.
    """

    width: int = 16
    depth: int = 4
    stem: int = 2
    detail: int = 8

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(1 <= self.width <= 256, "--width", f"is {self.width}", "1 to 256")
        require(1 <= self.depth <= 6, "--depth", f"is {self.depth}", "1 to 6")
        require(self.stem in {1, 2, 4}, "--stem", f"is {self.stem}", "1, 2 or 4")
        require(0 <= self.detail <= 64, "--detail", f"is {self.detail}", "0 to 64")

    @property
    def stride(self) -> int:
        """Input sides must be multiples of this."""
        return int(self.stem * 2**self.depth)


@dataclass(frozen=True)
class Effect:
    """One augmentation: how often, and how strong (its unit is the effect's own).

    A probability of 0 switches it off.
    """

    probability: float
    strength: float


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentations of training, in the order in which they are applied.

    The geometric ones make one transform, applied to image and mask together, and so is `hide`,
    before it; the rest imitates cameras and file formats, and touches the image only.

    Attributes
    ----------
    flip
        Mirror left and right (strength unused).
    larger, smaller
        Scale, even on a log scale, up to 1 + strength and down to 1 - strength.
    aspect
        Stretch in one direction and shrink in the other: sides in a ratio of up to 1 + strength,
        as a turned head or a half closed eye has them.
    rotation
        Degrees, to either side.
    translation
        Share of the side, in x and y (not of crops, which have a scatter of their own).
    hide
        Cover a rectangle, mostly on an eye, of up to strength x the sides (half as much again
        where it is to cover both, and by the distance of the eyes where it comes from beside);
        what it hides is no eye any more.
    light
        Brightness and contrast, each a factor in 1 +- strength.
    colour
        Saturation, a factor in 1 +- strength, and hue, +- 60 degrees x strength.
    grey
        No colour at all (strength unused).
    blur
        Standard deviation of a Gaussian, up to so many pixels.
    noise
        Standard deviation of Gaussian noise, up to so many levels of 255.
    jpeg
        Recompression at a quality between 100 - strength and 90.
    """

    flip: Effect = Effect(0.5, 1.0)
    larger: Effect = Effect(1.0, 0.35)
    smaller: Effect = Effect(1.0, 0.55)
    aspect: Effect = Effect(1.0, 0.5)
    rotation: Effect = Effect(1.0, 20.0)
    translation: Effect = Effect(1.0, 0.08)
    hide: Effect = Effect(0.5, 0.3)
    light: Effect = Effect(0.8, 0.3)
    colour: Effect = Effect(0.4, 0.3)
    grey: Effect = Effect(0.05, 1.0)
    blur: Effect = Effect(0.2, 3.5)
    noise: Effect = Effect(0.1, 12.0)
    jpeg: Effect = Effect(0.15, 70.0)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for entry in fields(self):
            effect = getattr(self, entry.name)
            where = f"--augment {entry.name}"
            require(0 <= effect.probability <= 1, where, f"has probability {effect.probability}",
                    "0 to 1")  # fmt: skip
            top = _STRONGEST.get(entry.name, 1.0)
            require(0 <= effect.strength <= top, where, f"has strength {effect.strength}",
                    f"0 to {top:g}")  # fmt: skip

    @classmethod
    def off(cls) -> AugmentConfig:
        """Return the settings of evaluation: nothing is changed."""
        return cls(**{entry.name: Effect(0.0, 0.0) for entry in fields(cls)})

    def softened(self) -> AugmentConfig:
        """Return these settings at half the strength or, where strength means nothing, as often."""
        by_strength = {"larger", "smaller", "aspect", "rotation", "translation"}
        changed = {}
        for entry in fields(self):
            effect = getattr(self, entry.name)
            if entry.name in by_strength:
                changed[entry.name] = Effect(effect.probability, effect.strength / 2)
            elif entry.name != "flip":
                changed[entry.name] = Effect(effect.probability / 2, effect.strength)
        return replace(self, **changed)

    def with_changes(self, changes: tuple[str, ...]) -> AugmentConfig:
        """Apply changes written NAME=off, NAME=STRENGTH or NAME=PROBABILITY:STRENGTH.

        Raises
        ------
        InputError
            Where a change names no augmentation or no number.
        """
        effects = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for change in changes:
            name, _, value = change.partition("=")
            where = f"--augment {change}"
            require(name in effects, where, f"{name!r} is no augmentation", ", ".join(effects))
            if value == "off":
                value = "0:0"
            try:
                *probability, strength = (float(part) for part in value.split(":"))
            except ValueError:
                problem = f"{value!r} is not readable"
                raise InputError(where, problem, "Write off, 0.3 or 0.5:0.3") from None
            chance = probability[0] if probability else effects[name].probability
            effects[name] = Effect(chance if strength else 0.0, strength)
        return AugmentConfig(**effects)


@dataclass(frozen=True)
class Window:
    """Part of a picture to train on: its size in pixels, and the share that lies anywhere."""

    height: int
    width: int
    background: float


@dataclass(frozen=True)
class Crop:
    """Train on parts of the pictures, most of them around the eyes.

    Eyes are one pixel in a hundred: a part of a third of the area, placed where they are, teaches
    as much in a third of the time, and no longer says where in a picture eyes have to be.

    Attributes
    ----------
    height, width
        Size, as shares of the picture's side.
    background
        Share of the parts that lie anywhere.
    """

    height: float = 0.5
    width: float = 0.625
    background: float = 0.25

    def __post_init__(self) -> None:
        """Check the ranges."""
        for side in (self.height, self.width):
            require(0 < side <= 1, "--crop", f"is {self}", "shares of the side, 0 to 1")
        require(0 <= self.background <= 1, "--crop", f"has background {self.background}", "0 to 1")

    def __str__(self) -> str:
        """Format as on the command line."""
        return f"{self.height:g}x{self.width:g}"

    def window(self, size: int, stride: int) -> Window:
        """Return the size in pixels for pictures of side `size`, in multiples of `stride`."""

        def whole(share: float) -> int:
            return min(size, max(1, round(share * size / stride)) * stride)

        return Window(whole(self.height), whole(self.width), self.background)

    @classmethod
    def parse(cls, text: str) -> Crop | None:
        """Read HEIGHTxWIDTH, or off."""
        if text == "off":
            return None
        try:
            height, width = (float(side) for side in text.split("x"))
        except ValueError:
            raise InputError("--crop", f"is {text!r}", "Write 0.5x0.625, or off") from None
        return cls(height, width)


_SMALL = 0.75  # of the sides, while parts have not grown yet
_STRONGEST = {
    "larger": 9.0,
    "aspect": 4.0,
    "smaller": 0.9,
    "rotation": 180.0,
    "blur": 16.0,
    "noise": 255.0,
    "jpeg": 99.0,
}


@dataclass(frozen=True)
class Stage:
    """What some epochs of a run show: how augmented, and which part."""

    augment: AugmentConfig
    crop: Crop | None


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes
    ----------
    shards, output
        Folder of the pack, and of everything that training writes.
    epochs, batch, lr, muon_lr, weight_decay, warmup
        Schedule; `batch` counts all processes together, `warmup` is in epochs. `muon_lr` is the
        rate of the filters (see `train.optimizer`), `lr` of everything else; 0 leaves all to AdamW.
    init
        Weights to begin with, of a checkpoint or a .safetensors file; None begins anew.
    settle
        Share of the epochs, at the end, with softer augmentation: the pictures that the network
        is for come last.
    grow
        Share of the epochs, at the start, on parts of three quarters of the sides: half the pixels.
    ema
        Decay of the averaged weights per step, reached gradually; 0 switches averaging off.
    clip
        Largest norm of the gradient; 0 switches clipping off.
    loader, threads
        auto, dali or portable; decoding threads (None: this process's share of the cores).
    device, amp
        torch device or auto; bf16, fp16, off or auto.
    keep
        Training checkpoints to keep besides the best.
    cache
        Keep decoded samples in memory: auto (where they take at most a quarter of what is free),
        off, or as many gigabytes as may be used.
    """

    shards: Path
    output: Path = Path("output")
    epochs: int = 25
    batch: int = 16
    lr: float = 5e-3
    muon_lr: float = 0.02
    weight_decay: float = 1e-2
    warmup: float = 1.0
    init: Path | None = None
    settle: float = 0.2
    grow: float = 0.0
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0
    loader: str = "auto"
    threads: int | None = None
    device: str = "auto"
    amp: str = "auto"
    compile: bool = False
    keep: int = 2
    cache: str = "auto"
    log_every: int = 10
    tensorboard: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    crop: Crop | None = field(default_factory=Crop)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("epochs", 1), ("batch", 1), ("keep", 1),
                            ("log_every", 1)):  # fmt: skip
            value = getattr(self, name)
            require(value >= least, f"--{name.replace('_', '-')}", f"is {value}", f">= {least}")
        require(0 < self.lr < math.inf, "--lr", f"is {self.lr}", "a number above 0")
        for name in ("seed", "muon_lr", "weight_decay", "warmup", "clip"):
            value = getattr(self, name)
            where = f"--{name.replace('_', '-')}"
            require(0 <= value < math.inf, where, f"is {value}", "a number from 0 up")
        require(0 <= self.settle <= 1, "--settle", f"is {self.settle}", "0 to 1")
        require(0 <= self.grow <= 1, "--grow", f"is {self.grow}", "0 to 1")
        require(0 <= self.ema < 1, "--ema", f"is {self.ema}", "0 up to, not including, 1")
        require(self.amp in {"auto", "bf16", "fp16", "off"}, "--amp", f"is {self.amp!r}",
                "auto, bf16, fp16 or off")  # fmt: skip

    def stage(self, epoch: int) -> Stage:
        """Return what is shown in an epoch, counted from 0."""
        settled = epoch >= self.epochs - round(self.settle * self.epochs)
        grown = epoch >= round(self.grow * self.epochs)
        crop = self.crop
        if crop and not grown:
            crop = replace(crop, height=_SMALL * crop.height, width=_SMALL * crop.width)
        return Stage(self.augment.softened() if settled else self.augment, crop)

    def decides(self) -> dict[str, Any]:
        """Return the settings that decide the weights: those must not change on --resume."""
        free = {"shards", "output", "keep", "log_every", "tensorboard", "threads", "loader",
                "device", "compile", "cache", "init"}  # fmt: skip
        return {key: value for key, value in asdict(self).items() if key not in free}


# Options of the command line by name, on top of their defaults: docs/recipe.md, docs/speedrun.md.
PRESETS: dict[str, dict[str, Any]] = {
    # What the bundled weights were made with.
    "recipe": {"epochs": 64, "seed": 2},
    # Fewest seconds to nearly its val F1: what val does not show is not practised.
    "fast": {
        "epochs": 24, "settle": 0.0, "grow": 0.3,
        "changes": ("hide=off", "aspect=off", "smaller=0.26", "blur=0.1:2"),
    },
}  # fmt: skip


def model_config(content: dict[str, Any]) -> ModelConfig:
    """Rebuild a `ModelConfig` from a checkpoint; an unknown key fails."""
    return from_fields(ModelConfig, content)

"""Settings of a training run: frozen, checked when built, unknown keys refused."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
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
        Stride of the first convolution, 1, 2 or 4; the head predicts stem x stem pixels at once.
    """

    width: int = 16
    depth: int = 4
    stem: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(1 <= self.width <= 256, "--width", f"is {self.width}", "1 to 256")
        require(1 <= self.depth <= 6, "--depth", f"is {self.depth}", "1 to 6")
        require(self.stem in {1, 2, 4}, "--stem", f"is {self.stem}", "1, 2 or 4")

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

    The geometric ones make one transform, applied to image and mask together; the rest imitates
    cameras and file formats, and touches the image only.

    Attributes
    ----------
    flip
        Mirror left and right (strength unused).
    scale
        Factor between 1 / (1 + strength) and 1 + strength, even on a log scale.
    rotation
        Degrees, to either side.
    translation
        Share of the side, in x and y.
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
    scale: Effect = Effect(1.0, 0.35)
    rotation: Effect = Effect(1.0, 20.0)
    translation: Effect = Effect(1.0, 0.08)
    light: Effect = Effect(0.8, 0.3)
    colour: Effect = Effect(0.4, 0.3)
    grey: Effect = Effect(0.05, 1.0)
    blur: Effect = Effect(0.1, 2.0)
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


_STRONGEST = {"rotation": 180.0, "blur": 16.0, "noise": 255.0, "jpeg": 99.0}


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes
    ----------
    shards, output
        Folder of the pack, and of everything that training writes.
    epochs, batch, lr, weight_decay, warmup
        Schedule; `batch` counts all processes together, `warmup` is in epochs.
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
    """

    shards: Path
    output: Path = Path("output")
    epochs: int = 25
    batch: int = 16
    lr: float = 5e-3
    weight_decay: float = 1e-2
    warmup: float = 1.0
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0
    loader: str = "auto"
    threads: int | None = None
    device: str = "auto"
    amp: str = "auto"
    compile: bool = False
    keep: int = 2
    log_every: int = 10
    tensorboard: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("epochs", 1), ("batch", 1), ("keep", 1),
                            ("log_every", 1)):  # fmt: skip
            value = getattr(self, name)
            require(value >= least, f"--{name.replace('_', '-')}", f"is {value}", f">= {least}")
        require(0 < self.lr < math.inf, "--lr", f"is {self.lr}", "a number above 0")
        for name in ("seed", "weight_decay", "warmup", "clip"):
            value = getattr(self, name)
            where = f"--{name.replace('_', '-')}"
            require(0 <= value < math.inf, where, f"is {value}", "a number from 0 up")
        require(0 <= self.ema < 1, "--ema", f"is {self.ema}", "0 up to, not including, 1")
        require(self.amp in {"auto", "bf16", "fp16", "off"}, "--amp", f"is {self.amp!r}",
                "auto, bf16, fp16 or off")  # fmt: skip

    def decides(self) -> dict[str, Any]:
        """Return the settings that decide the weights: those must not change on --resume."""
        free = {"shards", "output", "keep", "log_every", "tensorboard", "threads", "loader",
                "device", "compile"}  # fmt: skip
        return {key: value for key, value in asdict(self).items() if key not in free}


def model_config(content: dict[str, Any]) -> ModelConfig:
    """Rebuild a `ModelConfig` from a checkpoint; an unknown key fails."""
    return from_fields(ModelConfig, content)

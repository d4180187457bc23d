"""A light U-Net (Ronneberger et al., MICCAI 2015) behind a strided stem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from preprocess.errors import require
from train.config import ModelConfig

_STEM = 2  # stride of the first convolution; 1 and 4 were screened (docs/model.md)
_DETAIL = 8  # channels of the branch at full resolution
_FINE = 4  # channels that the coarse part hands to each pixel


@dataclass(frozen=True)
class InputSpec:
    """How the network wants its input; travels with the weights."""

    size: int = 256  # side of the square in pixels
    # Per channel R, G, B, in levels of 0..255 (ImageNet's).
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        size, mean, std = self.size, self.mean, self.std
        require(type(size) is int and 1 <= size <= 4096, "size", f"is {size!r}", "1 to 4096")
        right = len(mean) == 3 and all(map(math.isfinite, mean))
        require(right, "mean", f"is {mean}", "three numbers")
        right = len(std) == 3 and all(0 < each < math.inf for each in std)
        require(right, "std", f"is {std}", "three numbers above 0")


def _convolutions(*channels: int, stride: int = 1) -> nn.Sequential:
    """From each number of channels to the next: 3 x 3 convolution, batch normalisation, ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and a head as fine as the input.

    Normalisation is the first layer, so the network takes levels of 0..255 and nobody else has to
    know mean and deviation. The stem halves the picture before the first full-width convolution,
    which is where a U-Net spends its time. At the end the logits of 2 x 2 pixels are laid out
    (pixel shuffle: Shi et al., CVPR 2016) and corrected by a few channels that look at the picture
    itself: lids are thinner than two pixels. It is a correction, a sum, so that the coarse logits
    get their gradient directly: eight channels alone, cut off at zero, may all turn against the
    eyes in the first steps and never come back.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig | None = None, spec: InputSpec | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        spec = spec or InputSpec()
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        self.stem = _convolutions(3, config.width, stride=_STEM)
        self.encoder = nn.ModuleList(
            _convolutions(before, here, here) for before, here in pairwise([config.width, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, here, 2, 2) for here, below in pairwise(widths)
        )
        self.decoder = nn.ModuleList(_convolutions(2 * here, here, here) for here in widths[:-1])
        self.coarse = nn.Conv2d(config.width, _FINE * _STEM**2, 1)
        self.shuffle = nn.PixelShuffle(_STEM)
        self.detail = _convolutions(3, _DETAIL)
        self.merge = _convolutions(_DETAIL + _FINE, _DETAIL)
        self.head = nn.Conv2d(_DETAIL, 1, 1)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; the logits start at the share of eye pixels, about 1 percent.

        The coarse logits' weights must not start near zero: the layers below then get hardly any
        gradient, and the first hundreds of steps are lost.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for bias in (self.coarse.bias, self.head.bias):
            assert bias is not None
            nn.init.zeros_(bias)
        with torch.no_grad():
            self.coarse.bias[: _STEM**2] = -4.6  # type: ignore[index]
            self.head.weight.mul_(0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Predict eye logits, N x 1 x H x W.

        `images` is N x 3 x H x W RGB, uint8 or float levels of 0..255; H and W are multiples of
        `config.stride`.
        """
        images = (images - self.mean) / self.std
        features = self.stem(images)
        skips = []
        for level, block in enumerate(self.encoder):
            if level:
                features = self.pool(features)
            features = block(features)
            skips.append(features)
        for level in reversed(range(self.config.depth)):
            joined = torch.cat([self.up[level](features), skips[level]], dim=1)
            features = self.decoder[level](joined)
        # On CUDA a pixel shuffle leaves channels_last, and all of the fine branch would with it.
        fine = self.shuffle(self.coarse(features)).to(memory_format=torch.channels_last)
        correction = self.head(self.merge(torch.cat([fine, self.detail(images)], dim=1)))
        logits: Tensor = fine.narrow(1, 0, 1) + correction
        return logits


def to_channels_last(model: UNet, device: torch.device | str | None = None) -> UNet:
    """Lay the weights out channels-last, and move them to a device."""
    moved: UNet = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def parameter_count(model: nn.Module) -> int:
    """Count the trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def flop_count(model: nn.Module, size: int) -> int:
    """Count the operations of one forward pass (a multiply-add is two) on a size x size input."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    model.train(was_training)
    return int(counter.get_total_flops())


def fold_batch_norm(model: UNet) -> UNet:
    """Fold every batch normalisation into the convolution before it, in place, for inference."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for layers in model.eval().modules():
        if isinstance(layers, nn.Sequential):
            for at in reversed(range(len(layers))):
                if isinstance(norm := layers[at], nn.BatchNorm2d):
                    layers[at - 1] = fuse_conv_bn_eval(layers[at - 1], norm)  # type: ignore[type-var]
                    del layers[at]
    return model

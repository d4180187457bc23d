"""A light U-Net (Ronneberger et al., MICCAI 2015) behind a strided stem."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from preprocess.files import from_fields
from train.config import ModelConfig

_STEM = 2  # stride of the first convolution; 1 and 4 were screened (docs/model.md)
_DETAIL = 8  # channels of the branch at full resolution
_FINE = 4  # channels that the coarse part hands to each pixel


@dataclass(frozen=True)
class InputSpec:
    """How the network wants its input; travels with the weights.

    Attributes
    ----------
    size
        Side of the square in pixels.
    mean, std
        Per channel R, G, B, in levels of 0..255 (ImageNet's).
    """

    size: int = 256
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for a checkpoint."""
        content = asdict(self)
        return content | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> InputSpec:
        """Inverse of `to_dict`; an unknown key fails."""
        pairs = {"mean": tuple(content["mean"]), "std": tuple(content["std"])}
        return from_fields(cls, content | pairs)


class _Block(nn.Sequential):
    """Twice: 3 x 3 convolution, batch normalisation (Ioffe and Szegedy, 2015), ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            *_convolution(channels_in, channels_out), *_convolution(channels_out, channels_out)
        )


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and a head as fine as the input.

    Normalisation is the first layer, so the network takes levels of 0..255 and nobody else has to
    know mean and deviation. The stem halves the picture before the first full-width convolution,
    which is where a U-Net spends its time. At the end the logits of 2 x 2 pixels are laid out
    (pixel shuffle: Shi et al., CVPR 2016) and corrected by a few channels that look at the picture
    itself: lids are thinner than two pixels. It is a correction, a sum, so that the coarse logits
    get their gradient directly: eight channels alone, cut off at zero, may all turn against the
    eyes in the first steps and never come back.

    Parameters
    ----------
    config
        Its shape.
    spec
        Mean and deviation of its input.
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
        self.stem = nn.Sequential(*_convolution(3, config.width, _STEM))
        self.encoder = nn.ModuleList(
            _Block(channels_in, channels_out)
            for channels_in, channels_out in zip([config.width, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, here, 2, 2)
            for here, below in zip(widths, widths[1:], strict=False)
        )
        self.decoder = nn.ModuleList(_Block(2 * here, here) for here in widths[:-1])
        self.coarse = nn.Conv2d(config.width, _FINE * _STEM**2, 1)
        self.shuffle = nn.PixelShuffle(_STEM)
        self.detail = nn.Sequential(*_convolution(3, _DETAIL))
        self.merge = nn.Sequential(*_convolution(_DETAIL + _FINE, _DETAIL))
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
        """Predict eye logits.

        Parameters
        ----------
        images
            N x 3 x H x W RGB, uint8 or float levels of 0..255; H and W multiples of
            `config.stride`.

        Returns
        -------
        torch.Tensor
            N x 1 x H x W logits.
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

    def fold(sequence: nn.Module) -> nn.Sequential:
        modules: list[Any] = []
        for module in sequence.children():
            if isinstance(module, nn.BatchNorm2d):
                modules[-1] = fuse_conv_bn_eval(modules[-1], module)
            else:
                modules.append(module)
        return nn.Sequential(*modules)

    model.eval()
    for name in ("stem", "detail", "merge"):
        setattr(model, name, fold(getattr(model, name)))
    for blocks in (model.encoder, model.decoder):
        for level, block in enumerate(blocks):
            blocks[level] = fold(block)
    return model

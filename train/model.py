"""A light U-Net (Ronneberger et al., MICCAI 2015) behind a strided stem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from train.config import ModelConfig

_FINE = 4  # channels that the coarse part hands to each pixel


class _Block(nn.Sequential):
    """Twice: 3 x 3 convolution, batch normalisation (Ioffe and Szegedy, 2015), ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            *_convolution(channels_in, channels_out), *_convolution(channels_out, channels_out)
        )


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    kernel = 3 if stride == 1 else 2 * stride - 1
    return (
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and a head as fine as the input.

    The stem shrinks the picture by its stride before the first full-width convolution, which is
    where a U-Net spends its time. At the end the logits of stem x stem pixels are laid out (pixel
    shuffle: Shi et al., CVPR 2016) and, where `detail` is not 0, corrected by a few channels that
    look at the picture itself: lids are thinner than two pixels. It is a correction, a sum, so
    that the coarse logits get their gradient directly: eight channels alone, cut off at zero, may
    all turn against the eyes in the first steps and never come back.

    The buffer `calibration` (`train.calibration.Correction`) changes nothing while training.
    """

    calibration: Tensor

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        if config.stem == 1:
            self.stem: nn.Module = nn.Identity()
            first = 3
        else:
            self.stem = nn.Sequential(*_convolution(3, config.width, config.stem))
            first = config.width
        self.encoder = nn.ModuleList(
            _Block(channels_in, channels_out)
            for channels_in, channels_out in zip([first, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, here, 2, 2)
            for here, below in zip(widths, widths[1:], strict=False)
        )
        self.decoder = nn.ModuleList(_Block(2 * here, here) for here in widths[:-1])
        fine = _FINE if config.detail else 1
        self.coarse = nn.Conv2d(config.width, fine * config.stem**2, 1)
        self.shuffle = nn.PixelShuffle(config.stem)
        if config.detail:
            self.detail = nn.Sequential(*_convolution(3, config.detail))
            self.merge = nn.Sequential(*_convolution(config.detail + fine, config.detail))
            self.head = nn.Conv2d(config.detail, 1, 1)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; the logits start at the share of eye pixels, about 1 percent.

        The coarse logits' weights must not start near zero: the layers below then get hardly any
        gradient, and the first hundreds of steps are lost.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.coarse.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.coarse.bias[: self.config.stem**2] = -4.6  # type: ignore[index]
            if self.config.detail:
                self.head.weight.mul_(0.1)
                nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Predict eye logits.

        Parameters
        ----------
        images
            N x 3 x H x W, normalised; H and W multiples of `config.stride`.

        Returns
        -------
        torch.Tensor
            N x 1 x H x W logits.
        """
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
        fine = self.shuffle(self.coarse(features))
        logits: Tensor = fine[:, :1]
        if self.config.detail:
            logits = logits + self.head(self.merge(torch.cat([fine, self.detail(images)], dim=1)))
        scale, shift, bend, knee = self.calibration.unbind()
        return logits * scale + shift + bend * (logits + knee).clamp(max=0)


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

    def fold(sequence: nn.Sequential) -> nn.Sequential:
        modules: list[Any] = []
        for module in sequence:
            if isinstance(module, nn.BatchNorm2d):
                modules[-1] = fuse_conv_bn_eval(modules[-1], module)
            else:
                modules.append(module)
        return nn.Sequential(*modules)

    model.eval()
    for name in ("stem", "detail", "merge"):
        if isinstance(part := getattr(model, name, None), nn.Sequential):
            setattr(model, name, fold(part))
    for blocks in (model.encoder, model.decoder):
        for level, block in enumerate(blocks):
            assert isinstance(block, nn.Sequential)
            blocks[level] = fold(block)
    return model

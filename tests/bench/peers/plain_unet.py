"""The U-Net of most tutorials: full resolution, channels that double from level to level.

With a width of 16 it has 1.96 M parameters, as many as this project's network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Twice convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class PlainUNet(nn.Module):
    """Encoder, decoder, skip connections, one logit a pixel."""

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(block, [3, *widths[:-1]], widths))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, here, 2, 2)
            for here, below in zip(widths, widths[1:], strict=False)
        )
        self.decode = nn.ModuleList(block(2 * here, here) for here in widths[:-1])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, features: Any) -> Any:
        """Return N x 1 x H x W logits."""
        skips = []
        for level, down in enumerate(self.down):
            features = down(self.pool(features) if level else features)
            skips.append(features)
        for level in reversed(range(len(self.up))):
            joined = torch.cat([self.up[level](features), skips[level]], dim=1)
            features = self.decode[level](joined)
        return self.head(features)

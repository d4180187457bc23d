"""The U-Net of most tutorials: full resolution, channels that double from level to level.

With a width of 16 it has 1.96 M parameters, as many as this project's network.
"""

import torch
from torch import nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Twice convolution, batch normalisation, ReLU."""
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers.append(nn.Conv2d(channels, channels_out, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PlainUNet(nn.Module):
    """Encoder, decoder, skip connections, one logit a pixel."""

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(map(block, [3, *widths], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, 2) for here, below in pairs)
        self.decode = nn.ModuleList(block(2 * here, here) for here, _ in pairs)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, 1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, down in enumerate(self.down):
            features = down(self.pool(features) if level else features)
            skips.append(features)
        for level in reversed(range(len(self.up))):
            joined = torch.cat([self.up[level](features), skips[level]], dim=1)
            features = self.decode[level](joined)
        return self.head(features)

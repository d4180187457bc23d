"""The training loop of most tutorials, for a plain U-Net or one of segmentation-models-pytorch.

torch DataLoader and Pillow, Adam at 1e-3, BCE + Dice, flips. The data are folders ``train`` and
``val`` with KEY.jpg and KEY.png of one size. "Tuned" is what PyTorch's tuning guide adds on a CPU:
channels_last, and malloc and OpenMP through the environment.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Figures, serve
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

BATCH, RATE, WORKERS, LEAST_STEPS = 16, 1e-3, 2, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pairs(Dataset):
    """Files of the network's size, normalised as torchvision's ToTensor and Normalize do."""

    def __init__(self, folder: Path, flips: bool) -> None:
        self.images, self.flips = sorted(folder.glob("*.jpg")), flips

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        path = self.images[number]
        with Image.open(path) as image, Image.open(path.with_suffix(".png")) as mask:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
            target = (torch.from_numpy(np.array(mask.convert("L")))[None] > 0).float()
        pixels = pixels.permute(2, 0, 1).contiguous().float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        pixels = (pixels - mean) / std
        if self.flips and torch.rand(()) < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1)
        return pixels, target


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus soft Dice, over the batch."""
    bce = nn.functional.binary_cross_entropy_with_logits(logits, masks)
    probability = logits.sigmoid()
    both = (probability * masks).sum()
    return bce + 1 - (2 * both + 1) / (probability.sum() + masks.sum() + 1)


def build(network: str) -> nn.Module:
    """Make the network; it starts from random weights, as ours does."""
    if network == "plain":
        from unet import PlainUNet

        return PlainUNet()
    import cpu_torchvision  # noqa: F401
    import segmentation_models_pytorch as smp

    # The encoder with the fewest parameters of the library's table: 2.2 M.
    return smp.Unet("mobilenet_v2", encoder_weights=None, in_channels=3, classes=1)


def endless(batches: DataLoader[Any]) -> Iterator[Any]:
    """Go through a loader again and again."""
    while True:
        yield from batches


@torch.inference_mode()
def write_masks(model: nn.Module, val: DataLoader[Any], layout: Any, path: Path) -> None:
    """Write val's masks, in the order of their keys, bit by bit."""
    model.eval()
    marked = [model(x.to(memory_format=layout))[:, 0].sigmoid() >= 0.5 for x, _ in val]
    model.train()
    np.save(path, np.packbits(torch.cat(marked).numpy(), axis=-1))


def train(
    data: str, seconds: float, network: str = "plain", tuned: bool = False, masks: str = ""
) -> Figures:
    """Time whole steps, after a first one, for so many seconds.

    With a folder for masks, val's are written there twelve times; that time is not counted.
    """
    torch.manual_seed(0)
    layout = torch.channels_last if tuned else torch.contiguous_format
    batches = endless(DataLoader(
        Pairs(Path(data, "train"), flips=True), BATCH, shuffle=True, drop_last=True,
        num_workers=WORKERS, persistent_workers=True,
    ))  # fmt: skip
    val = DataLoader(Pairs(Path(data, "val"), flips=False), BATCH)
    model = build(network).to(memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def step() -> float:
        """Do a step; return how long it waited for its data."""
        asked = time.perf_counter()
        images, targets = next(batches)
        waited = time.perf_counter() - asked
        loss = bce_dice(model(images.to(memory_format=layout)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return waited

    step()
    spent = waited = 0.0
    done = evaluated = 0
    while spent < seconds or done < LEAST_STEPS:
        started = time.perf_counter()
        if masks and tuned:  # a schedule of its own time, as the tuned loops of today have
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * spent / seconds)) / 2)
        waited += step()
        spent += time.perf_counter() - started
        done += 1
        if masks and (spent >= (evaluated + 1) * seconds / 12 or spent >= seconds):
            evaluated = int(12 * spent / seconds)
            Path(masks).mkdir(parents=True, exist_ok=True)
            write_masks(model, val, layout, Path(masks, f"{spent:.1f}.npy"))
    return {
        "images": done * BATCH / spent,
        "waiting": 100 * waited / spent,
        "parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
    }


if __name__ == "__main__":
    serve((train,))

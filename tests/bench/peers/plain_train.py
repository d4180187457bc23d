"""The training loop of most tutorials, for a plain U-Net or one of segmentation-models-pytorch.

    python tests/bench/peers/plain_train.py --data FOLDER --seconds 6 [--network smp] [--tuned]

torch DataLoader and Pillow, Adam at 1e-3, BCE + Dice, flips. FOLDER has train/ and val/ with
KEY.jpg and KEY.png of one size or, with --originals, CelebAMask-HQ's layout. `--tuned` is what
PyTorch's tuning guide adds on a CPU: channels_last, and malloc and OpenMP through the environment.
Measured are whole steps after a first one. With --masks, trains for the time given, and writes
val's masks there now and then; that time is not counted.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZE, BATCH, RATE = 256, 16, 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Normalise as torchvision's ToTensor and Normalize do."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Pairs(Dataset):  # type: ignore[type-arg]
    """Files of the network's size: KEY.jpg and KEY.png."""

    def __init__(self, folder: Path, flips: bool) -> None:
        self.images = sorted(folder.glob("*.jpg"))
        self.flips = flips
        if not self.images:
            raise click.ClickException(f"{folder} holds no photograph")

    def __len__(self) -> int:
        """Count the photographs."""
        return len(self.images)

    def read(self, path: Path) -> tuple[Image.Image, Image.Image]:
        """Decode a photograph and its mask."""
        return Image.open(path).convert("RGB"), Image.open(path.with_suffix(".png")).convert("L")

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and mask."""
        image, mask = self.read(self.images[number])
        target = (torch.from_numpy(np.array(mask))[None] > 0).float()
        pixels = to_tensor(image)
        if self.flips and torch.rand(()) < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1)
        return pixels, target


class Originals(Pairs):
    """CelebAMask-HQ as it is: large photographs, a mask an eye."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "CelebA-HQ-img", flips=True)
        self.masks = folder / "CelebAMask-HQ-mask-anno"

    def read(self, path: Path) -> tuple[Image.Image, Image.Image]:
        """Decode and shrink a photograph, and join the masks of its eyes."""
        image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        both = np.zeros((SIZE, SIZE), np.uint8)
        number = int(path.stem)
        for eye in ("l_eye", "r_eye"):
            file = self.masks / str(number // 2000) / f"{number:05d}_{eye}.png"
            if file.exists():
                mask = Image.open(file).convert("L")
                both |= np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.NEAREST))
        return image, Image.fromarray(both)


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus soft Dice, over the batch."""
    bce = nn.functional.binary_cross_entropy_with_logits(logits, masks)
    probability = logits.sigmoid()
    both = (probability * masks).sum()
    return bce + 1 - (2 * both + 1) / (probability.sum() + masks.sum() + 1)


def build(network: str) -> nn.Module:
    """Make the network; nothing is downloaded, so it starts from random weights as ours does."""
    if network == "plain":
        from plain_unet import PlainUNet

        return PlainUNet()
    import cpu_torchvision  # noqa: F401  # makes torchvision importable without CUDA
    import segmentation_models_pytorch as smp

    # The encoder with the fewest parameters of the library's table: 2.2 M.
    return smp.Unet("mobilenet_v2", encoder_weights=None, in_channels=3, classes=1)


@torch.inference_mode()
def write_masks(model: nn.Module, val: DataLoader[Any], layout: Any, path: Path) -> None:
    """Write val's masks, in the order of their keys, bit by bit."""
    model.eval()
    marked = [model(x.to(memory_format=layout))[:, 0].sigmoid() >= 0.5 for x, _ in val]
    model.train()
    np.save(path, np.packbits(torch.cat(marked).numpy(), axis=-1))


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """Go through a loader again and again."""
    while True:
        yield from loader


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--originals", is_flag=True)
@click.option("--network", type=click.Choice(["plain", "smp"]), default="plain")
@click.option("--tuned", is_flag=True)
@click.option("--workers", default=2)
@click.option("--seconds", default=6.0)
@click.option("--steps", default=2, help="Measure no fewer.")
@click.option("--masks", type=click.Path(path_type=Path))
@click.option("--every", default=30.0, help="Seconds between two evaluations.")
def main(
    data: Path, originals: bool, network: str, tuned: bool, workers: int, seconds: float,
    steps: int, masks: Path | None, every: float,
) -> None:  # fmt: skip
    """Train; print images/s and the share of time spent waiting for data."""
    torch.manual_seed(0)
    layout = torch.channels_last if tuned else torch.contiguous_format
    dataset = Originals(data) if originals else Pairs(data / "train", flips=True)
    loader: DataLoader[Any] = DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    model = build(network).to(memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    batches = endless(loader)

    def step() -> float:
        """Do a step; return how long it waited for its data."""
        asked = time.perf_counter()
        images, targets = next(batches)
        waited = time.perf_counter() - asked
        loss = bce_dice(model(images.to(memory_format=layout)), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return waited

    step()
    spent = waited = 0.0
    done, evaluated = 0, 0
    val: DataLoader[Any] | None = None
    if masks:
        masks.mkdir(parents=True)
        val = DataLoader(Pairs(data / "val", flips=False), BATCH)
    while spent < seconds or done < steps:
        started = time.perf_counter()
        if masks and tuned:  # a schedule of its own time, as the tuned loops of today have
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * spent / seconds)) / 2)
        waited += step()
        spent += time.perf_counter() - started
        done += 1
        if masks and val and (spent >= (evaluated + 1) * every or spent >= seconds):
            evaluated = int(spent / every)
            write_masks(model, val, layout, masks / f"{spent:.1f}.npy")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({
        "images_per_second": done * BATCH / spent, "waiting": waited / spent, "steps": done,
        "parameters": parameters,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

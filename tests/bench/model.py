"""Size and speed of U-Net shapes, side by side: `python tests/bench/model.py`.

Every round runs every shape once, so that a slow minute of the machine hits all alike; medians
are printed with their spread. Training is a whole step (forward, loss, backward, AdamW) on a
batch of 16, inference one picture through the network with batch normalisation folded.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import click

from preprocess.runtime import tune_process

SHAPES = [
    "16,4", "12,4", "8,4", "24,3",
]  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@click.command()
@click.option("--shape", "shapes", multiple=True, default=SHAPES, help="width,depth")
@click.option("--size", default=256)
@click.option("--rounds", default=5)
@click.option("--threads", default=0, help="0 leaves the choice to torch.")
def main(shapes: tuple[str, ...], size: int, rounds: int, threads: int) -> None:
    """Print a table of shapes."""
    tune_process()
    import torch

    from train.config import ModelConfig
    from train.loss import bce_dice
    from train.model import (
        UNet,
        flop_count,
        fold_batch_norm,
        parameter_count,
        to_channels_last,
    )

    if threads:
        torch.set_num_threads(threads)
    images = 255 * torch.rand(16, 3, size, size).to(memory_format=torch.channels_last)
    masks = (torch.rand(16, 1, size, size) > 0.98).float()
    steps: dict[str, list[float]] = {shape: [] for shape in shapes}
    single: dict[str, list[float]] = {shape: [] for shape in shapes}
    models = {}
    for shape in shapes:
        config = ModelConfig(*map(int, shape.split(",")))
        model = to_channels_last(UNet(config))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        folded = to_channels_last(fold_batch_norm(UNet(config)))
        models[shape] = (model, optimizer, folded)

    def step(shape: str) -> None:
        model, optimizer, _ = models[shape]
        bce_dice(model(images), masks).backward()
        optimizer.step()
        optimizer.zero_grad()

    def one(shape: str) -> None:
        with torch.inference_mode():
            for _ in range(5):
                models[shape][2](images[:1])

    for number in range(rounds + 1):
        for shape in shapes:
            times = (
                seconds(lambda shape=shape: step(shape)),
                seconds(lambda shape=shape: one(shape)),
            )
            if number:  # the first round warms up
                steps[shape].append(16 / times[0])
                single[shape].append(times[1] / 5 * 1e3)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
          f"{size} x {size}, {rounds} rounds: median (min to max)")  # fmt: skip
    print("width depth               params   GFLOP   training images/s      one picture ms")
    for shape in shapes:
        model = models[shape][0]
        rates, waits = steps[shape], single[shape]
        print(
            f"{shape:<24} {parameter_count(model) / 1e6:5.2f} M"
            f" {flop_count(model, size) / 1e9:6.2f}"
            f"   {statistics.median(rates):6.1f} ({min(rates):.1f} to {max(rates):.1f})"
            f"   {statistics.median(waits):6.1f} ({min(waits):.1f} to {max(waits):.1f})"
        )


if __name__ == "__main__":
    main()

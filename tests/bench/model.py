"""Size and speed of U-Net shapes, side by side: `python tests/bench/model.py --rounds 4`.

Training is a whole step (forward, loss, backward, AdamW) on a batch of 16, inference one picture
through the network with batch normalisation folded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import contest
import page
from contest import Contender, Figures
from material import BATCH, SIZE


def speed(width: int, depth: int, threads: int) -> Figures:
    """Measure a shape."""
    from preprocess.tuning import tune_process

    tune_process()
    import torch

    from train.config import ModelConfig
    from train.loss import bce_dice
    from train.model import UNet, flop_count, fold_batch_norm, parameter_count, to_channels_last

    torch.set_num_threads(threads or torch.get_num_threads())
    config = ModelConfig(width, depth)
    model, folded = to_channels_last(UNet(config)), to_channels_last(fold_batch_norm(UNet(config)))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = 255 * torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    masks = (torch.rand(BATCH, 1, SIZE, SIZE) > 0.98).float()

    def step() -> None:
        optimizer.zero_grad()
        bce_dice(model(images), masks).backward()
        optimizer.step()

    @torch.inference_mode()
    def one() -> None:
        folded(images[:1])

    def seconds(work: Callable[[], None], times: int) -> float:
        work()
        started = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - started) / times

    return {
        "parameters": parameter_count(model) / 1e6,
        "GFLOP": flop_count(model, SIZE) / 1e9,
        "training images/s": BATCH / seconds(step, 3),
        "one picture ms": 1e3 * seconds(one, 10),
    }


@click.command()
@click.option("--shape", "shapes", multiple=True, default=["16,4", "12,4", "8,4", "24,3"],
              help="width,depth")  # fmt: skip
@click.option("--threads", default=0, help="0 leaves the choice to torch.")
@contest.ROUNDS
def main(shapes: tuple[str, ...], threads: int, rounds: int) -> None:
    """Print a table of shapes: median (lowest to highest)."""
    entrants = []
    for shape in shapes:
        width, depth = map(int, shape.split(","))
        work = {"width": width, "depth": depth, "threads": threads}
        entrants.append(Contender(shape, "", "model.py", "speed", work))
    found = contest.run_rounds(entrants, rounds)
    figures = {"parameters": 2, "GFLOP": 2, "training images/s": 1, "one picture ms": 1}
    rows = [
        (name, *(page.spread(found.of(name, figure), digits) for figure, digits in figures.items()))
        for name in shapes
    ]
    for name, fact in page.facts(("torch",)).items():
        click.echo(f"- {name}: {fact}")
    click.echo("\n" + page.markdown(("width,depth", *figures), rows))


if __name__ == "__main__":
    contest.serve((speed,), main)

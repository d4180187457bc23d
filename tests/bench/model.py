"""Size and speed of U-Net shapes: `python tests/bench/model.py --rounds 4 [--threads 1]`.

Training is a whole step (forward, loss, backward, AdamW) on a batch of 16, inference one picture
through the network with batch normalisation folded.
"""

from statistics import median

import click
import contest
import page
import torch
from contest import Contender, Figures
from material import BATCH, SIZE
from rulers import seconds

from train.config import ModelConfig
from train.loss import bce_dice
from train.model import UNet, flop_count, fold_batch_norm, parameter_count, to_channels_last


def speed(width: int, depth: int, threads: int) -> Figures:
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

    one = torch.inference_mode()(lambda: folded(images[:1]))
    steps, pictures = ([seconds(work) for _ in range(6)][1:] for work in (step, one))
    return {
        "M parameters": parameter_count(model) / 1e6,
        "GFLOP": flop_count(model, SIZE) / 1e9,
        "training images/s": BATCH / median(steps),
        "one picture, ms": 1e3 * median(pictures),
    }


@click.command()
@click.option("--shape", "shapes", multiple=True, default=["16,4", "12,4", "8,4", "24,3"])
@click.option("--threads", default=0, help="0 leaves the choice to torch.")
@contest.ROUNDS
def main(shapes: tuple[str, ...], threads: int, rounds: int) -> None:
    """Print a table of shapes, width,depth: median (lowest to highest)."""
    entrants = []
    for shape in shapes:
        width, depth = map(int, shape.split(","))
        work = {"width": width, "depth": depth, "threads": threads}
        entrants.append(Contender(shape, "", "model.py", "speed", work))
    found = contest.run_rounds(entrants, rounds)
    click.echo("\n".join(f"- {name}: {fact}" for name, fact in page.facts("torch").items()))
    click.echo("\n" + page.figure_table(found, shapes))


if __name__ == "__main__":
    contest.serve((speed,), main)

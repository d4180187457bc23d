"""Command line of training: `python -m train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from preprocess.cli import HELP, DefaultsTo
from preprocess.errors import reports_errors

PATH = click.Path(path_type=Path)
LOADER = click.option("--loader", type=click.Choice(["auto", "dali", "portable"]), default="auto",
                      help="auto takes DALI where it is installed.")  # fmt: skip
DEVICE = click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
THREADS = click.option("--threads", type=int, help="Decoding threads.  [default: one a core]")
TUNE = click.option("--tune/--no-tune", default=True,
                    help="Keep freed memory, let OpenMP sleep (preprocess/tuning.py).")  # fmt: skip


def _say(line: str, err: bool = False) -> None:
    """Speak to the user, from the first of several processes only."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(line, err=err)


@click.group(cls=DefaultsTo, default="fit", context_settings=HELP)
def main() -> None:
    """Train and evaluate the eye segmenter.

    Without a command, `fit` is meant: python -m train --shards FOLDER. Several processes:
    torchrun --nproc-per-node 2 -m train --shards FOLDER.
    """


@main.command()
@click.option("--shards", type=PATH, default=Path("shards"), help="Folder of the pack.")
@click.option(
    "--output",
    type=PATH,
    default=Path("output"),
    help="Folder for model, checkpoints, history and plots.",
)
@click.option("--epochs", default=25)
@click.option("--batch", default=16, help="Samples a step, all processes together.")
@click.option("--lr", default=5e-3, help="Peak learning rate.")
@click.option("--weight-decay", default=1e-2)
@click.option("--warmup", default=1.0, help="Epochs of rising learning rate.")
@click.option("--ema", default=0.998, help="Decay of the averaged weights; 0 is off.")
@click.option("--clip", default=1.0, help="Largest gradient norm; 0 is off.")
@click.option("--seed", default=0)
@click.option("--width", default=16, help="Channels of the U-Net's first level.")
@click.option("--depth", default=4, help="Halvings after the stem.")
@click.option("--stem", default=2, help="Stride of the first convolution: 1, 2 or 4.")
@click.option(
    "--augment",
    "changes",
    multiple=True,
    metavar="NAME=[P:]STRENGTH|off",
    help="Change one augmentation, e.g. blur=off, rotation=30, jpeg=0.3:60.",
)
@click.option("--no-augment", is_flag=True, help="Switch all augmentation off.")
@LOADER
@THREADS
@DEVICE
@click.option(
    "--amp",
    type=click.Choice(["auto", "bf16", "fp16", "off"]),
    default="auto",
    help="Mixed precision; auto is float32 on a CPU.",
)
@click.option("--compile", is_flag=True, help="Use torch.compile.")
@click.option("--keep", default=2, help="Training checkpoints kept besides the best.")
@click.option("--log-every", default=10, help="Steps between looks at the loss.")
@click.option("--tensorboard", is_flag=True, help="Also log to OUTPUT/tensorboard.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUTPUT.")
@TUNE
@reports_errors
def fit(
    width: int, depth: int, stem: int, changes: tuple[str, ...], no_augment: bool, resume: bool,
    tune: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a model; writes model, checkpoints, history and plots to OUTPUT."""
    from preprocess.tuning import tune_process

    _say(tune_process(tune), err=True)
    from train.config import AugmentConfig, ModelConfig, TrainConfig
    from train.loop import fit as run

    augment = (AugmentConfig.off() if no_augment else AugmentConfig()).with_changes(changes)
    config = TrainConfig(model=ModelConfig(width, depth, stem), augment=augment, **settings)
    result = run(config, resume=resume)
    _say(f"{result.model_path}: val F1 {result.best.val_f1:.4f} (epoch {result.best.epoch})")


@main.command()
@click.option("--shards", type=PATH, default=Path("shards"), help="Folder of the pack.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@click.option("--model", "model_path", type=PATH, default=Path("output/eye_segmentation_model.pth"))
@click.option("--output", type=PATH, help="Folder for JSON and grid.  [default: the model's]")
@click.option("--batch", default=16)
@LOADER
@THREADS
@DEVICE
@TUNE
@reports_errors
def evaluate(
    shards: Path, split: str, model_path: Path, output: Path | None, batch: int, loader: str,
    threads: int | None, device: str, tune: bool,
) -> None:  # fmt: skip
    """Print figures of a model on a split; writes JSON and a grid of the worst 16."""
    from preprocess.tuning import tune_process

    _say(tune_process(tune), err=True)
    from train.evaluate import evaluate_checkpoint
    from train.report import save_evaluation, save_worst, table

    folder = output or model_path.parent
    if output:
        output.mkdir(parents=True, exist_ok=True)
    run = evaluate_checkpoint(
        model_path, shards, split, batch=batch, loader=loader, threads=threads, device=device
    )
    if not run.processes.is_first:
        return
    click.echo(table(run.evaluation))
    name = f"{shards.resolve().name}_{split}"
    context = {"shards": str(shards), "split": split, "model": str(model_path)}
    save_evaluation(run.evaluation, context, folder / f"evaluation_{name}.json")
    save_worst(run.model, run.loader, run.checkpoint, run.evaluation, folder / f"worst_{name}.png")
    click.echo(f"written: {folder / f'evaluation_{name}.json'}, {folder / f'worst_{name}.png'}")

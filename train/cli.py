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


def _preset(context: click.Context, _: click.Parameter, name: str | None) -> None:
    """Make a preset's settings the defaults of the other options."""
    if name is not None:
        from train.config import PRESETS

        context.default_map = {**(context.default_map or {}), **PRESETS[name]}


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
@click.option(
    "--preset",
    type=click.Choice(["recipe", "fast"]),
    is_eager=True,
    expose_value=False,
    callback=_preset,
    help="Other defaults: the bundled weights' recipe, or the fewest seconds to nearly its F1.",
)
@click.option("--epochs", default=25)
@click.option("--batch", default=16, help="Samples a step, all processes together.")
@click.option("--lr", default=5e-3, help="Peak learning rate of AdamW.")
@click.option("--muon-lr", default=0.02, help="Peak rate of Muon, for the filters; 0 is off.")
@click.option("--weight-decay", default=1e-2)
@click.option("--warmup", default=1.0, help="Epochs of rising learning rate.")
@click.option(
    "--init", type=PATH, help="Begin with the weights of this model, e.g. the bundled ones."
)
@click.option("--settle", default=0.2, help="Share of the epochs with softer augmentation.")
@click.option("--grow", default=0.0, help="Share of the epochs, at the start, on smaller parts.")
@click.option("--ema", default=0.998, help="Decay of the averaged weights; 0 is off.")
@click.option("--clip", default=1.0, help="Largest gradient norm; 0 is off.")
@click.option("--seed", default=0)
@click.option("--width", default=16, help="Channels of the U-Net's first level.")
@click.option("--depth", default=4, help="Halvings after the stem.")
@click.option("--stem", default=2, help="Stride of the first convolution: 1, 2 or 4.")
@click.option("--detail", default=8, help="Channels of the branch at full resolution; 0 is off.")
@click.option(
    "--augment",
    "changes",
    multiple=True,
    metavar="NAME=[P:]STRENGTH|off",
    help="Change one augmentation, e.g. blur=off, rotation=30, jpeg=0.3:60.",
)
@click.option("--no-augment", is_flag=True, help="Switch all augmentation off.")
@click.option(
    "--crop",
    default="0.5x0.625",
    metavar="HxW|off",
    help="Train on parts around the eyes, of these shares of the side.",
)
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
@click.option(
    "--cache",
    default="auto",
    metavar="auto|off|GB",
    help="Memory for decoded samples; auto takes up to a quarter of what is free.",
)
@click.option("--log-every", default=10, help="Steps between looks at the loss.")
@click.option("--tensorboard", is_flag=True, help="Also log to OUTPUT/tensorboard.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUTPUT.")
@TUNE
@reports_errors
def fit(
    width: int, depth: int, stem: int, detail: int, changes: tuple[str, ...], no_augment: bool,
    crop: str, resume: bool, tune: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a model; writes model, checkpoints, history and plots to OUTPUT."""
    from preprocess.tuning import tune_process

    _say(tune_process(tune), err=True)
    from train.config import AugmentConfig, Crop, ModelConfig, TrainConfig
    from train.loop import fit as run

    augment = (AugmentConfig.off() if no_augment else AugmentConfig()).with_changes(changes)
    config = TrainConfig(
        model=ModelConfig(width, depth, stem, detail),
        augment=augment,
        crop=Crop.parse(crop),
        **settings,
    )
    result = run(config, resume=resume)
    _say(f"{result.model_path}: val F1 {result.best.val_f1:.4f} (epoch {result.best.epoch})")


@main.command()
@click.option("--shards", type=PATH, default=Path("shards"), help="Folder of the pack.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test")
@click.option("--model", "model_path", type=PATH, default=Path("output/eye_segmentation_model.pth"))
@click.option("--output", type=PATH, help="Folder for JSON and grid.  [default: the model's]")
@click.option(
    "--stress",
    is_flag=True,
    help="Also under 13 difficulties at three strengths, and on pictures without eyes.",
)
@click.option("--batch", default=16)
@LOADER
@THREADS
@DEVICE
@TUNE
@reports_errors
def evaluate(
    shards: Path, split: str, model_path: Path, output: Path | None, batch: int, loader: str,
    threads: int | None, device: str, tune: bool, stress: bool,
) -> None:  # fmt: skip
    """Print figures of a model on a split; writes JSON, plots, and grids of best and worst."""
    from preprocess.tuning import tune_process

    _say(tune_process(tune), err=True)
    from train.evaluate import evaluate_checkpoint
    from train.report import plot_reliability, plot_stress, save_evaluation, save_examples, table
    from train.stress import run_stress

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
    written = [folder / f"evaluation_{name}.json", folder / f"reliability_{name}.png"]
    save_evaluation(run.evaluation, context, written[0])
    plot_reliability(run.evaluation, run.checkpoint.threshold, written[1])
    written += save_examples(run.model, run.loader, run.checkpoint, run.evaluation, folder, name)
    if stress:
        report = run_stress(run)
        click.echo(f"\n{report.table()}")
        written += [folder / f"stress_{name}.json", folder / f"stress_{name}.png"]
        report.save(written[-2])
        plot_stress(report, written[-1])
    click.echo(f"written to {folder}: {', '.join(path.name for path in written)}")


@main.command()
@click.option("--model", "model_path", type=PATH, default=Path("output/eye_segmentation_model.pth"))
@click.option("--output", type=PATH, required=True, help="File to write, .safetensors.")
@reports_errors
def export(model_path: Path, output: Path) -> None:
    """Write the weights of a model for others to use: safetensors, 4 MB, read without pickle."""
    from train.checkpoint import Checkpoint
    from train.release import export as run

    digest = run(Checkpoint.load(model_path), output)
    digests = output.with_suffix(".sha256")
    digests.write_text(f"{digest}  {output.name}\n")
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB, sha256 {digest}")

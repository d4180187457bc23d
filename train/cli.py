"""Command line of training: `python -m train`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from preprocess.command import HELP, VERSION, DefaultsTo, reports_errors
from preprocess.storage import Place, place
from train.config import AMP, LOADERS, PRESETS, VERIFY

PATH = click.Path(path_type=Path)
MODEL = Path("output/eye_segmentation_model.pth")
SHARDS = click.option("--shards", multiple=True, default=["shards"], show_default="shards",
                      help="Folder or URL of a pack; may be repeated.")  # fmt: skip
TUNE = click.option("--tune/--no-tune", default=True, show_default=True,
                    help="Keep freed memory, let OpenMP threads sleep.")  # fmt: skip


def _computes(command: Any) -> Any:
    """Add the options of a command that runs a network."""
    for option in (
        click.option("--verify", type=click.Choice(VERIFY),
                     help="Hold shards against their checksums.  [default: on]"),
        click.option("--loader", type=click.Choice(LOADERS),
                     help="What decodes.  [default: auto, DALI if it is installed]"),
        click.option("--amp", type=click.Choice(AMP),
                     help="Mixed precision.  [default: auto, float32 on a CPU]"),
        click.option("--device", help="cpu, cuda, cuda:N or mps.  [default: auto]"),
    ):  # fmt: skip
        command = option(command)
    return command


def _say(line: str, err: bool = False) -> None:
    """Speak to the user, from the first of several processes only."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(line, err=err)


def _tuned(tune: bool) -> None:
    from preprocess.runtime import tune_process

    _say(tune_process(tune), err=True)


@click.group(cls=DefaultsTo, default="fit", context_settings=HELP)
@VERSION
def main() -> None:
    """Train and evaluate the eye segmenter.

    Without a command, `fit` is meant: python -m train --shards FOLDER. Several processes:
    torchrun --nproc-per-node 2 -m train --shards FOLDER.
    """


# The defaults of `fit` are those of `train.config.TrainConfig`, or of the preset: an option that is
# not given is not passed on. The help repeats them, and a test holds it to them.
@main.command()
@SHARDS
@click.option("--weight", "weights", type=float, multiple=True,
              help="How often an epoch shows each sample of a pack, in the order of --shards.  "
                   "[default: 1]")  # fmt: skip
@click.option("--output", metavar="FOLDER",
              help="Folder or URL for model, history, plots.  [default: output]")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)),
              help="Other defaults: one set in squares of 256 (recipe), several in squares of 384 "
                   "(closer), or the fewest seconds (fast).")  # fmt: skip
@click.option("--epochs", type=int, help="[default: 25]")
@click.option("--batch", type=int, help="Samples a step, of all processes.  [default: 16]")
@click.option("--accumulate", type=int,
              help="Parts of a step, computed one after the other: needs less memory.  "
                   "[default: 1]")  # fmt: skip
@click.option("--lr", type=float, help="Peak learning rate.  [default: 0.005]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--init", metavar="MODEL", help="Begin with the weights of this model.")
@click.option("--augment", "changes", multiple=True, metavar="NAME=[P:]STRENGTH|off",
              help="Change one augmentation, e.g. blur=off, rotation=30, jpeg=0.3:60, "
                   "crop=0.5x0.625; or all of them: off.")  # fmt: skip
@_computes
@click.option("--cache", metavar="auto|off|GB",
              help="Memory for decoded samples.  [default: auto, a quarter of it]")  # fmt: skip
@click.option("--resume", is_flag=True,
              help="Go on from the newest checkpoint in OUTPUT, also to more epochs.")  # fmt: skip
@TUNE
@reports_errors
def fit(
    preset: str | None, shards: tuple[str, ...], weights: tuple[float, ...],
    changes: tuple[str, ...], resume: bool, tune: bool, **given: Any,
) -> None:  # fmt: skip
    """Train a model; writes model, checkpoints, history, settings and plots to OUTPUT."""
    _tuned(tune)
    from train.config import AugmentConfig, TrainConfig
    from train.loop import fit as run

    settings = PRESETS[preset] if preset else {}
    settings = settings | {name: value for name, value in given.items() if value is not None}
    augment = settings.pop("augment", AugmentConfig()).with_changes(changes)
    settings |= {name: place(settings[name]) for name in ("output", "init") if name in settings}
    config = TrainConfig(tuple(map(place, shards)), weights=weights, augment=augment, **settings)
    result = run(config, resume=resume)
    f1 = f"{result.judged_by} F1 {result.best.val_f1:.4f}"
    _say(f"{result.model_path}: {f1} (epoch {result.best.epoch})")
    if result.warning:
        _say(f"Warning: {result.warning}", err=True)


@main.command()
@SHARDS
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test",
              show_default=True)  # fmt: skip
@click.option("--model", "model_path", type=PATH, default=MODEL, show_default=True)
@click.option("--output", type=PATH, help="Folder for JSON and grids.  [default: the model's]")
@click.option("--stress", is_flag=True,
              help="Also under 13 difficulties at three strengths, and without eyes.")  # fmt: skip
@_computes
@TUNE
@reports_errors
def evaluate(shards: tuple[str, ...], tune: bool, **given: Any) -> None:
    """Print figures of a model on a split; writes JSON, plots, and grids of best and worst."""
    _tuned(tune)
    for root in map(place, shards):
        _evaluate(root, **given)


def _evaluate(
    shards: Place, split: str, model_path: Path, output: Path | None, stress: bool, **given: Any
) -> None:
    from preprocess.files import write_json
    from train.evaluate import evaluate_checkpoint
    from train.report import plot_reliability, plot_stress, save_evaluation, save_examples, table
    from train.stress import run_stress

    folder = output or model_path.parent
    settings = {name: value for name, value in given.items() if value is not None}
    run = evaluate_checkpoint(model_path, shards, split, **settings)
    if not run.processes.is_first:
        return
    click.echo(f"{shards}, {split}\n{table(run.evaluation)}")
    name = f"{shards.resolve().name}_{split}"
    context = {"shards": str(shards), "split": split, "model": str(model_path)}
    written = [folder / f"evaluation_{name}.json", folder / f"reliability_{name}.png"]
    save_evaluation(run, context, written[0])
    plot_reliability(run.evaluation, run.checkpoint.threshold, written[1])
    written += save_examples(run, folder, name)
    if stress:
        report = run_stress(run)
        click.echo(f"\n{report.table()}")
        written += [folder / f"stress_{name}.json", folder / f"stress_{name}.png"]
        write_json(written[-2], asdict(report))
        plot_stress(report, written[-1])
    click.echo(f"written to {folder}: {', '.join(path.name for path in written)}")


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--output", type=PATH, default=Path("compare.png"), show_default=True,
              help="Plot to write.")  # fmt: skip
@reports_errors
def compare(runs: tuple[str, ...], output: Path) -> None:
    """Show runs, by their folders, as a table and a plot: figures, and what they differ in."""
    from train.report import compare as run

    click.echo(run([*map(place, runs)], output))
    click.echo(f"written: {output}")


@main.command()
@click.option("--model", "model_path", type=PATH, default=MODEL, show_default=True)
@click.option("--output", type=PATH, required=True, help="File to write: .onnx or .safetensors.")
@click.option("--half", is_flag=True, help="ONNX at half the size: filters stored in float16.")
@click.option("--shards", metavar="PACK",
              help="Pack whose val pictures try the ONNX.  [default: drawn faces]")  # fmt: skip
@reports_errors
def export(model_path: Path, output: Path, half: bool, shards: str | None) -> None:
    """Write the weights of a model for others to use: ONNX, or safetensors.

    An ONNX file is run by ONNX Runtime and held against torch before it counts.
    """
    from train.checkpoint import Checkpoint
    from train.export import ONNX_SUFFIX, check_onnx, export_onnx, pictures

    checkpoint = Checkpoint.load(model_path)
    if output.suffix == ONNX_SUFFIX:
        digest = export_onnx(checkpoint, output, half=half)
        pack = place(shards) if shards else None
        check = check_onnx(checkpoint, output, pictures(checkpoint.spec.size, pack))
        click.echo(
            f"{output}: on {check.samples} pictures within {check.difference:.1e} of torch, "
            f"IoU of the masks {check.iou:.5f}"
        )
    else:
        digest = checkpoint.export(output)
    output.with_suffix(f"{output.suffix}.sha256").write_text(f"{digest}  {output.name}\n")
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB, sha256 {digest}")

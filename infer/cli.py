"""Command line of inference: `python -m infer`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from preprocess.cli import HELP
from preprocess.errors import reports_errors


@click.command(context_settings=HELP)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="PHOTO",
    help="A file, a folder or a glob pattern; may be given several times.",
)
@click.argument("more", nargs=-1, metavar="[PHOTO]...")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=Path("output/eye_segmentation_model.pth"),
    help="Checkpoint of `train`.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File for one photo, folder for several.  "
    "[default: eye_segmentation_result.png, or a folder eye_segmentation_result]",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--overlay", is_flag=True, help="Write photo and overlay only.")
@click.option("--mask-only", is_flag=True, help="Write the mask only, at the photo's own size.")
@click.option(
    "--tune/--no-tune",
    default=True,
    help="Keep freed memory, let OpenMP sleep (preprocess/tuning.py).",
)
@reports_errors
def main(
    images: tuple[str, ...], more: tuple[str, ...], model: Path, output: Path | None,
    device: str, overlay: bool, mask_only: bool, tune: bool,
) -> None:  # fmt: skip
    """Cut out the eyes of photographs: photo | mask | overlay side by side, as PNG.

    Masks have the photo's own size and orientation. Photos are JPEG, PNG, WebP or anything else
    that Pillow reads. One that cannot be read is reported, the others are done; the exit code
    is then 2.
    """
    from preprocess.errors import InputError
    from preprocess.tuning import tune_process

    click.echo(tune_process(tune), err=True)
    if not (images or more):
        raise InputError("--image", "is not given", "Give a photo, a folder or a pattern")
    if overlay and mask_only:
        raise InputError("--overlay", "is given together with --mask-only", "Choose one")
    from tqdm import tqdm

    from infer.output import View, check_suffix
    from infer.predictor import Predictor
    from infer.run import Failure, find_photos, plan, run

    view = View.MASK if mask_only else View.OVERLAY if overlay else View.PANEL
    jobs = plan(find_photos([*images, *more]), output)
    for job in jobs:
        check_suffix(job.result, view)
    predictor = Predictor.from_checkpoint(model, device)
    failures = 0
    with tqdm(total=len(jobs), unit="photo", disable=True if len(jobs) == 1 else None) as bar:
        for outcome in run(predictor, jobs, view):
            bar.update()
            if isinstance(outcome, Failure):
                failures += 1
                tqdm.write(f"Error: {outcome.problem}", file=sys.stderr)
            elif len(jobs) == 1:
                share = view.value if outcome.found else "no eye found"
                click.echo(f"{outcome.job.result}: {share}")
    if len(jobs) > 1:
        click.echo(f"{jobs[0].result.parent}: {len(jobs) - failures} of {len(jobs)} photos done")
    if failures:
        raise SystemExit(2)

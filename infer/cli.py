"""Command line of inference: `python -m infer`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from preprocess.command import HELP, reports_errors


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
    help="Checkpoint of `train`.  [default: the weights in the package]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File for one photo, folder for several.  "
    "[default: eye_segmentation_result.png, or a folder eye_segmentation_result]",
)
@click.option(
    "--faces",
    default="auto",
    metavar="auto|whole|N",
    help="auto: every face, or the whole picture if it looks like one; N: the N largest.",
)
@click.option(
    "--write",
    "views",
    multiple=True,
    type=click.Choice(["panel", "overlay", "mask", "soft", "cutout"]),
    help="What to write; may be given several times.  [default: panel]",
)
@click.option("--overlay", is_flag=True, help="Same as --write overlay: photo | overlay.")
@click.option("--mask-only", is_flag=True, help="Same as --write mask, at the photo's own size.")
@click.option("--video", type=click.Path(path_type=Path), help="A video file instead of photos.")
@click.option("--webcam", type=int, help="A webcam instead of photos, until Ctrl-C.")
@click.option("--smooth", default=0.5, help="Share of the past in each frame of a video.")
@click.option("--json", "json", is_flag=True, help="Also write faces and eyes as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--tune/--no-tune",
    default=True,
    help="Keep freed memory, let OpenMP threads sleep.",
)
@reports_errors
def main(
    images: tuple[str, ...], more: tuple[str, ...], model: Path | None, output: Path | None,
    faces: str, views: tuple[str, ...], overlay: bool, mask_only: bool, video: Path | None,
    webcam: int | None, smooth: float, json: bool, overwrite: bool, device: str, tune: bool,
) -> None:  # fmt: skip
    """Cut out the eyes of photographs: every face, every eye, at the photo's own resolution.

    Written as photo | mask | overlay side by side, or as --write says. The weights in the package
    are for non-commercial research only; --model takes others. Masks have the photo's own size
    and orientation. Photos are JPEG, PNG, WebP or anything else that Pillow reads. One that
    cannot be read is reported, the others are done; the exit code is then 2.
    """
    from preprocess.errors import InputError
    from preprocess.runtime import tune_process

    click.echo(tune_process(tune), err=True)
    if overlay and mask_only:
        raise InputError("--overlay", "is given together with --mask-only", "Choose one")
    wanted = [*views, *(["overlay"] if overlay else []), *(["mask"] if mask_only else [])]
    count = _faces(faces)
    if video or webcam is not None:
        if images or more or (video and webcam is not None):
            raise InputError("--video", "is given together with something else", "Give one")
        _video(video, webcam, model, output, wanted, count, smooth, json, overwrite, device)
        return
    if not (images or more):
        raise InputError("--image", "is not given", "Give a photo, a folder or a pattern")
    from tqdm import tqdm

    from infer.output import View, check_suffix
    from infer.photos import find_photos, plan
    from infer.predictor import Predictor
    from infer.run import Failure, run

    drawn = [View(name) for name in dict.fromkeys(wanted or ["panel"])]
    photos = find_photos([*images, *more])
    jobs = plan(photos, output, drawn, json=json, overwrite=overwrite)
    for job in jobs:
        for view, path in job.pictures.items():
            check_suffix(path, view)
    predictor = Predictor.from_checkpoint(model, device) if model else Predictor.bundled(device)
    failures = 0
    with tqdm(total=len(jobs), unit="photo", disable=True if len(jobs) == 1 else None) as bar:
        for outcome in run(predictor, jobs, count):
            bar.update()
            if isinstance(outcome, Failure):
                failures += 1
                tqdm.write(f"Error: {outcome.problem}", file=sys.stderr)
                continue
            if outcome.warning:
                tqdm.write(f"{outcome.job.photo}: {outcome.warning}", file=sys.stderr)
            if len(jobs) == 1:
                found = f"{outcome.eyes} eye(s) in {outcome.faces} face(s)"
                click.echo(f"{', '.join(str(path) for path in outcome.job.results)}: {found}")
    if len(jobs) > 1:
        click.echo(
            f"{jobs[0].results[0].parent}: {len(jobs) - failures} of {len(jobs)} photos done"
        )
    if failures:
        raise SystemExit(2)


def _video(
    video: Path | None, webcam: int | None, model: Path | None, output: Path | None,
    wanted: list[str], faces: str | int, smooth: float, json: bool, overwrite: bool, device: str,
) -> None:  # fmt: skip
    from preprocess.errors import InputError

    if len(wanted) > 1 or set(wanted) & {"soft", "cutout"}:
        raise InputError("--write", "is not possible for a video", "Give panel, overlay or mask")
    if video and not video.is_file():
        raise InputError(video, "does not exist", "Give a video file")
    if output is None:
        output = video.with_name(f"{video.stem}_eyes.mp4") if video else Path("webcam_eyes.mp4")
    record = output.with_suffix(".jsonl") if json else None
    for path in (output, record):
        if path and path.exists() and not overwrite:
            raise InputError(path, "exists already", "Add --overwrite, or give another --output")
    if video and output.resolve() == video.resolve():
        raise InputError(output, "is the video itself", "Give another --output")
    from infer.output import View
    from infer.predictor import Predictor
    from infer.video import segment_video

    predictor = Predictor.from_checkpoint(model, device) if model else Predictor.bundled(device)
    source = video if video is not None else (webcam or 0)
    view = View(wanted[0]) if wanted else View.OVERLAY
    report = segment_video(
        predictor, source, output, view=view, faces=faces, smooth=smooth, record=record
    )
    if report.lost_sounds:
        click.echo(f"{output}: {report.lost_sounds} sound track(s) left out: their coding cannot "
                   "be copied; convert the sound to AAC first", err=True)  # fmt: skip
    click.echo(
        f"{output}: {report.frames} frames, eyes in {report.with_eyes}, "
        f"{report.frames_per_second:.1f} frames/s"
    )


def _faces(text: str) -> str | int:
    from preprocess.errors import InputError

    if text in {"auto", "whole"}:
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError("--faces", f"is {text!r}", "Expected auto, whole or a number above 0")
    return int(text)

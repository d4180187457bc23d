"""Command line of inference: `python -m infer`."""

from __future__ import annotations

import sys
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from preprocess.command import HELP, VERSION, DefaultsTo, reports_errors
from preprocess.errors import InputError

PATH = click.Path(path_type=Path)
MODEL = click.option("--model", type=PATH, help="Model of `train`: .onnx, .pth or .safetensors.  "
                     "[default: the weights in the package]")  # fmt: skip
FACES = click.option("--faces", default="auto", metavar="auto|whole|N",
                     help="auto: every face, or the whole picture if it looks like one; "
                          "N: the N largest.")  # fmt: skip
DEVICE = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
JSON = click.option("--json", is_flag=True, help="Also write faces and eyes as JSON.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace results that exist.")
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Say how the process is tuned.")
TUNE = click.option("--tune/--no-tune", default=True,
                    help="Keep freed memory, let OpenMP threads sleep.")  # fmt: skip
_SECONDS = 5.0  # between lines of progress, without a terminal


@click.group(cls=DefaultsTo, default="photos", context_settings=HELP)
@VERSION
def main() -> None:
    """Cut out the eyes of photographs and videos.

    Without a command, `photos` is meant: python -m infer --image PHOTO.
    """


@main.command()
@click.option("--image", "images", multiple=True, metavar="PHOTO",
              help="File, folder, pattern, or - for standard input; may be repeated.")  # fmt: skip
@click.argument("more", nargs=-1, metavar="[PHOTO]...")
@click.option("--recursive", is_flag=True, help="Look into the folders of folders, too.")
@MODEL
@click.option("--output", type=PATH, help="File for one photo, folder for several.  [default: "
              "eye_segmentation_result.png, or a folder eye_segmentation_result]")  # fmt: skip
@FACES
@click.option("--write", "views", multiple=True,
              type=click.Choice(["panel", "overlay", "mask", "soft", "cutout", "eyes"]),
              help="What to write; may be repeated.  [default: panel]")  # fmt: skip
@click.option("--overlay", is_flag=True, help="Same as --write overlay: photo | overlay.")
@click.option("--mask-only", is_flag=True, help="Same as --write mask, at the photo's own size.")
@JSON
@click.option("--csv", "table", type=PATH, help="Write a table, too: a row for each eye.")
@OVERWRITE
@click.option("--skip-existing", is_flag=True, help="Leave out photos whose results exist.")
@click.option("--video", type=PATH, hidden=True)
@click.option("--webcam", type=int, hidden=True)
@DEVICE
@TUNE
@VERBOSE
@click.pass_context
@reports_errors
def photos(
    context: click.Context, images: tuple[str, ...], more: tuple[str, ...], recursive: bool,
    model: Path | None, output: Path | None, faces: str, views: tuple[str, ...], overlay: bool,
    mask_only: bool, json: bool, table: Path | None, overwrite: bool, skip_existing: bool,
    video: Path | None, webcam: int | None, device: str, tune: bool, verbose: bool,
) -> None:  # fmt: skip
    """Cut out the eyes of photographs: every face, every eye, at the photo's own resolution.

    Written as photo | mask | overlay side by side, or as --write says. The weights in the package
    are for non-commercial research only; --model takes others. Masks have the photo's own size
    and orientation. Photos are JPEG, PNG, WebP or anything else that Pillow reads. One that
    cannot be read is reported, the others are done; the exit code is then 2.
    """
    if overlay and mask_only:
        raise InputError("--overlay", "is given together with --mask-only", "Choose one")
    wanted = [*views, *(["overlay"] if overlay else []), *(["mask"] if mask_only else [])]
    if video or webcam is not None:  # as before there was a command for it
        if images or more or len(wanted) > 1:
            raise InputError("--video", "is given together with something else", "Give one")
        context.invoke(
            clip, source=video, webcam=webcam, model=model, output=output, faces=faces,
            view=wanted[0] if wanted else "overlay", smooth=0.5, json=json, overwrite=overwrite,
            device=device, tune=tune, verbose=verbose,
        )  # fmt: skip
        return
    if not (images or more):
        raise InputError("--image", "is not given", "Give a photo, a folder or a pattern")
    _tune(tune, verbose)
    from infer.output import View
    from infer.photos import find_photos, plan

    drawn = [View(name) for name in dict.fromkeys(wanted or ["panel"])]
    found = find_photos([*images, *more], recursive)
    jobs = plan(found, output, drawn, json=json, overwrite=overwrite, skip_existing=skip_existing)
    count = _faces(faces)
    predictor = _predictor(model, device, threads=0 if len(jobs) == 1 else 1)
    failures = _run(predictor, jobs, count, table)
    if len(found) > len(jobs):
        click.echo(f"{len(found) - len(jobs)} photos had their results already")
    if failures:
        raise SystemExit(2)


def _run(predictor: Any, jobs: list[Any], faces: str | int, table: Path | None) -> int:
    """Segment, report, and return how many photographs failed."""
    from infer.record import save_table
    from infer.run import Failure, run

    done, rows, failures, said = 0, [], 0, time.monotonic()
    number_of_faces = eyes = 0
    for outcome in run(predictor, jobs, faces):
        done += 1
        if isinstance(outcome, Failure):
            failures += 1
            click.echo(f"Error: {outcome.problem}", err=True)
            continue
        number_of_faces, eyes = number_of_faces + len(outcome.faces), eyes + outcome.eyes
        rows.append((str(outcome.job.photo), outcome.faces))
        if outcome.warning:
            click.echo(f"{outcome.job.photo}: {outcome.warning}", err=True)
        if len(jobs) > 1 and time.monotonic() - said > _SECONDS:
            said = time.monotonic()
            click.echo(f"{done} of {len(jobs)} photos", err=True)
    if table:
        save_table(rows, table)
    found = f"{eyes} eye(s) in {number_of_faces} face(s)"
    if len(jobs) > 1:
        place = jobs[0].results[0].parent
        failed = f", {failures} failed" if failures else ""
        click.echo(f"{place}: {done - failures} photos, {found}{failed}")
    elif jobs and not failures:
        click.echo(f"{', '.join(map(str, jobs[0].results))}: {found}")
    return failures


@main.command("video")
@click.argument("source", type=PATH, required=False)
@click.option("--webcam", type=int, help="A webcam instead of a file, until Ctrl-C.")
@MODEL
@click.option("--output", type=PATH, help="Ends in .mp4, .mov or .mkv.  [default: NAME_eyes.mp4]")
@FACES
@click.option("--write", "view", type=click.Choice(["panel", "overlay", "mask", "soft", "cutout"]),
              default="overlay", help="What each frame shows.")  # fmt: skip
@click.option("--smooth", default=0.5, help="Share of the past in each frame, against flicker.")
@JSON
@OVERWRITE
@DEVICE
@TUNE
@VERBOSE
@reports_errors
def clip(
    source: Path | None, webcam: int | None, model: Path | None, output: Path | None, faces: str,
    view: str, smooth: float, json: bool, overwrite: bool, device: str, tune: bool, verbose: bool,
) -> None:  # fmt: skip
    """Cut out the eyes of a video: every frame, the sound kept; --json writes a line a frame."""
    if view in {"soft", "cutout"}:
        problem = f"{view} needs more than a video of these formats holds"
        raise InputError("--write", problem, "Give panel, overlay or mask")
    if bool(source) == (webcam is not None):
        raise InputError("video", "takes a file or --webcam", "Give one of them")
    if source and not source.is_file():
        raise InputError(source, "does not exist", "Give a video file")
    if output is None:
        output = source.with_name(f"{source.stem}_eyes.mp4") if source else Path("webcam_eyes.mp4")
    record = output.with_suffix(".jsonl") if json else None
    for path in (output, record):
        if path and path.exists() and not overwrite:
            raise InputError(path, "exists already", "Add --overwrite, or give another --output")
    if source and output.resolve() == source.resolve():
        raise InputError(output, "is the video itself", "Give another --output")
    _tune(tune, verbose)
    from infer.output import View
    from infer.video import segment_video

    report = segment_video(
        _predictor(model, device, threads=1), source or webcam or 0, output, view=View(view),
        faces=_faces(faces), smooth=smooth, record=record,
    )  # fmt: skip
    if report.lost_sounds:
        click.echo(f"{output}: {report.lost_sounds} sound track(s) left out: their coding cannot "
                   "be copied; convert the sound to AAC first", err=True)  # fmt: skip
    click.echo(
        f"{output}: {report.frames} frames, eyes in {report.with_eyes}, "
        f"{report.frames_per_second:.1f} frames/s"
    )


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8765,
              help="If it is taken, one of the next is used.")  # fmt: skip
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
@reports_errors
def page(port: int, browser: bool) -> None:
    """Serve the live page: photos and the camera, segmented inside the browser.

    Only this machine can reach it, and no photo leaves the browser. Ctrl-C ends it.
    """
    from infer import server

    with server.PageServer(server.DIST, port) as running:
        click.echo(f"{running.url} (Ctrl-C ends)")
        if browser:
            webbrowser.open(running.url)
        with suppress(KeyboardInterrupt):
            running.serve_forever()


def _tune(tune: bool, verbose: bool) -> None:
    from preprocess.runtime import tune_process

    said = tune_process(tune)
    if verbose:
        print(said, file=sys.stderr)


def _predictor(model: Path | None, device: str, threads: int) -> Any:
    from infer.predictor import Predictor

    if model:
        return Predictor.from_checkpoint(model, device, threads)
    return Predictor.bundled(device, threads)


def _faces(text: str) -> str | int:
    if text in {"auto", "whole"}:
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError("--faces", f"is {text!r}", "Expected auto, whole or a number above 0")
    return int(text)

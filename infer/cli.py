"""Command line of inference: `python -m infer`."""

from __future__ import annotations

import re
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from preprocess.command import (
    ADDRESS,
    ENGINE,
    HELP,
    VERSION,
    DefaultsTo,
    one_line,
    ray_address,
    reports_errors,
)
from preprocess.errors import InputError
from preprocess.files import MAX_MEGAPIXELS

PATH = click.Path(path_type=Path)
COMMON = (
    click.option("--model", type=PATH, help="Model of `train`: .onnx, .pth or .safetensors.  "
                 "[default: the weights in the package]"),
    click.option("--faces", default="auto", metavar="auto|whole|N",
                 help="auto: every face, or the whole picture if it looks like one; "
                      "N: the N largest."),
    click.option("--json", is_flag=True, help="Also write faces and eyes as JSON."),
    click.option("--overwrite", is_flag=True, help="Replace results that exist."),
    click.option("--max-megapixels", type=click.FloatRange(min=0), default=MAX_MEGAPIXELS,
                 show_default=True, help="Refuse larger files before they take memory."),
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps."),
    click.option("--tune/--no-tune", default=True,
                 help="Keep freed memory, let OpenMP threads sleep."),
    click.option("-v", "--verbose", is_flag=True, help="Say how the process is tuned."),
)  # fmt: skip


_SECONDS = 5.0  # between lines of progress


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that photos and videos share."""
    for option in reversed(COMMON):
        command = option(command)
    return command


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
@click.option("--output", type=PATH, help="File for one photo, folder for several.  [default: "
              "eye_segmentation_result.png, or a folder eye_segmentation_result]")  # fmt: skip
@click.option("--write", "views", multiple=True,
              type=click.Choice(["panel", "overlay", "mask", "soft", "cutout", "eyes"]),
              help="What to write; may be repeated.  [default: panel]")  # fmt: skip
@click.option("--overlay", is_flag=True, help="Same as --write overlay: photo | overlay.")
@click.option("--mask-only", is_flag=True, help="Same as --write mask, at the photo's own size.")
@click.option("--csv", "table", type=PATH, help="Write a table, too: a row for each eye.")
@click.option("--parquet", metavar="FOLDER", help="Write nothing but rows, for millions of photos: "
              "a folder or URL of Parquet files. --image may then be a URL, too.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1),
              help="Processes for --parquet.  [default: one a core]")  # fmt: skip
@ENGINE
@ADDRESS
@click.option("--skip-existing", is_flag=True, help="Leave out photos whose results exist.")
@click.option("--video", type=PATH, hidden=True)
@click.option("--webcam", type=int, hidden=True)
@_common
@click.pass_context
@reports_errors
def photos(
    context: click.Context, /, images: tuple[str, ...], more: tuple[str, ...], recursive: bool,
    output: Path | None, views: tuple[str, ...], overlay: bool, mask_only: bool,
    table: Path | None, parquet: str | None, workers: int | None, engine: str,
    address: str | None, skip_existing: bool, video: Path | None, webcam: int | None, **common: Any,
) -> None:  # fmt: skip
    """Cut out the eyes of photographs: every face, every eye, at the photo's own resolution.

    Written as photo | mask | overlay side by side, or as --write says. The weights in the package
    are for non-commercial research only; --model takes others. Masks have the photo's own size
    and orientation. Photos are JPEG, PNG, WebP or anything else that Pillow reads. One that
    cannot be read is reported, the others are done; the exit code is then 2.
    """
    if overlay and mask_only:
        raise InputError("--overlay", "is given together with --mask-only", "Choose one")
    views += ("overlay",) * overlay + ("mask",) * mask_only
    ray = ray_address(engine, address)
    if parquet:
        others = {"--output": output, "--write": views, "--csv": table, "--json": common["json"],
                  "--skip-existing": skip_existing, "--video": video,
                  "--webcam": webcam is not None}  # fmt: skip
        if given := [name for name, value in others.items() if value]:
            remedy = "Give it alone: it writes rows only, and what is done is skipped anyway"
            raise InputError("--parquet", f"is given together with {given[0]}", remedy)
    elif workers or ray:
        name = "--workers" if workers else "--engine"
        raise InputError(name, "is for --parquet", "Leave it out: all cores are used")
    if video or webcam is not None:  # as before there was a command for it
        if images or more or len(views) > 1:
            raise InputError("--video", "is given together with something else", "Give one")
        view = views[0] if views else "overlay"
        context.invoke(clip, source=video, webcam=webcam, output=output, view=view, **common)
        return
    if not (images or more):
        raise InputError("--image", "is not given", "Give a photo, a folder or a pattern")
    if parquet:
        _write_parts([*images, *more], recursive, parquet, workers, ray, **common)
        return
    from infer.output import View
    from infer.photos import check_results, find_photos, plan, remove_leftovers

    found = find_photos([*images, *more], recursive)
    drawn = [View(name) for name in dict.fromkeys(views or ["panel"])]
    jobs = plan(found, output, drawn, json=common["json"], overwrite=common["overwrite"],
                skip_existing=skip_existing)  # fmt: skip
    tables = [table] if table else []
    check_results(found, tables, overwrite=True)
    remove_leftovers([*tables, *(path for job in jobs for path in job.results)])
    failures = _run(jobs, table, **common)
    if len(found) > len(jobs):
        click.echo(f"{len(found) - len(jobs)} photos had their results already")
    if failures:
        raise SystemExit(2)


def _run(jobs: list[Any], table: Path | None, faces: str, **common: Any) -> int:
    """Segment, report, and return how many photographs failed."""
    number = _faces(faces)
    predictor = _predictor(threads=0 if len(jobs) == 1 else 1, **common)
    from infer.record import writing_table
    from infer.run import run

    # Counts, not results: there may be millions of photographs.
    done, found, eyes, said = 0, 0, 0, time.monotonic()
    with writing_table(table) if table else nullcontext() as add:
        for count, outcome in enumerate(run(predictor, jobs, number), start=1):
            if outcome.problem:
                click.echo(f"Error: {one_line(outcome.problem)}", err=True)
                continue
            done += 1
            found += len(outcome.faces)
            eyes += sum(len(face.eyes) for face in outcome.faces)
            if add:
                add(str(outcome.job.photo), outcome.faces)
            if outcome.warning:
                click.echo(one_line(f"{outcome.job.photo}: {outcome.warning}"), err=True)
            if len(jobs) > 1 and time.monotonic() - said > _SECONDS:
                said = time.monotonic()
                click.echo(f"{count} of {len(jobs)} photos", err=True)
    found_here, failures = f"{eyes} eye(s) in {found} face(s)", len(jobs) - done
    if len(jobs) > 1:
        failed = f", {failures} failed" if failures else ""
        place = one_line(jobs[0].results[0].parent)
        click.echo(f"{place}: {done} photos, {found_here}{failed}")
    elif done:
        click.echo(f"{one_line(', '.join(map(str, jobs[0].results)))}: {found_here}")
    return failures


def _write_parts(
    images: list[str], recursive: bool, out: str, workers: int | None, ray: str | None,
    faces: str, overwrite: bool, model: Path | None, device: str, max_megapixels: float, tune: bool,
    verbose: bool, **_: Any,
) -> None:  # fmt: skip
    """Write Parquet files; exit code 2 if a photograph failed, in this run or an earlier one."""
    _tune(tune, verbose)
    from infer.parts import PartsConfig, write_parts
    from preprocess.storage import place

    config = PartsConfig(place(out), model, device, _faces(faces), max_megapixels)
    said = time.monotonic()
    for count, total in write_parts(config, images, recursive, workers, overwrite, ray):
        if time.monotonic() - said > _SECONDS:
            said = time.monotonic()
            click.echo(f"{count.photos} of {total} photos", err=True)
    failed = f", {count.failed} failed (see column problem)" if count.failed else ""
    click.echo(f"{one_line(out)}: {count.photos} photos, {count.eyes} eye(s){failed}")
    if count.failed:
        raise SystemExit(2)


@main.command("video")
@click.argument("source", type=PATH, required=False)
@click.option("--webcam", type=int, help="A webcam instead of a file, until Ctrl-C.")
@click.option("--output", type=PATH, help="Ends in .mp4, .mov or .mkv.  [default: NAME_eyes.mp4]")
@click.option("--write", "view", type=click.Choice(["panel", "overlay", "mask", "soft", "cutout"]),
              default="overlay", help="What each frame shows.")  # fmt: skip
@click.option("--smooth", default=0.5, help="Share of the past in each frame, against flicker.")
@_common
@reports_errors
def clip(
    source: Path | None, webcam: int | None, output: Path | None, view: str, faces: str,
    json: bool, overwrite: bool, smooth: float, **common: Any,
) -> None:  # fmt: skip
    """Cut out the eyes of a video: every frame, the sound kept; --json writes a line a frame."""
    if view in {"soft", "cutout"}:
        problem = f"{view} needs more than a video of these formats holds"
        raise InputError("--write", problem, "Give panel, overlay or mask")
    if bool(source) == (webcam is not None):
        raise InputError("video", "takes a file or --webcam", "Give one of them")
    if output is None:
        output = source.with_name(f"{source.stem}_eyes.mp4") if source else Path("webcam_eyes.mp4")
    record = output.with_suffix(".jsonl") if json else None
    from infer.output import View
    from infer.photos import check_results, remove_leftovers
    from infer.video import segment_video

    results = [output, *([record] if record else [])]
    check_results([source] if source else [], results, overwrite)
    remove_leftovers(results)
    number = _faces(faces)
    report = segment_video(
        _predictor(threads=1, **common), source or webcam or 0, output, view=View(view),
        faces=number, smooth=smooth, record=record,
    )  # fmt: skip
    place = one_line(output)
    if report.lost_sounds:
        click.echo(f"{place}: {report.lost_sounds} sound track(s) left out: their coding cannot "
                   "be copied; convert the sound to AAC first", err=True)  # fmt: skip
    click.echo(
        f"{place}: {report.frames} frames, eyes in {report.with_eyes}, "
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


def _predictor(
    threads: int, model: Path | None, device: str, max_megapixels: float, tune: bool,
    verbose: bool, **_: Any,
) -> Any:  # fmt: skip
    _tune(tune, verbose)
    from infer.predictor import Predictor

    return Predictor.from_checkpoint(model, device, threads, max_megapixels)


def _tune(tune: bool, verbose: bool) -> None:
    from preprocess.runtime import tune_process

    said = tune_process(tune)
    if verbose:
        print(said, file=sys.stderr)


def _faces(text: str) -> str | int:
    if not re.fullmatch("auto|whole|0*[1-9][0-9]{0,8}", text):
        raise InputError("--faces", f"is {text!r}", "Expected auto, whole or a number above 0")
    return text if text.isalpha() else int(text)

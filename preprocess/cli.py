"""Command line of the packer: `python -m preprocess`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from preprocess.command import (
    ADDRESS,
    ENGINE,
    HELP,
    VERSION,
    DefaultsTo,
    ray_address,
    reports_errors,
)
from preprocess.files import MAX_MEGAPIXELS
from preprocess.storage import place

_PATH = click.Path(path_type=Path)
_SPLIT = click.Choice(["train", "val", "test"])
_SHARDS = click.option("--shards", default="shards", help="Folder or URL of a pack.")
_WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]"
)


@click.group(cls=DefaultsTo, default="pack", context_settings=HELP)
@VERSION
def main() -> None:
    """Pack photographs of faces and their eye masks into WebDataset shards.

    Without a command, `pack` is meant: python -m preprocess --data FOLDER.
    """


@main.command()
@click.option("--data", "source", required=True, help="Folder or zip, or the URL of one.")
@click.option("--out", default="shards", help="Folder or URL for shards and manifest.")
# The defaults of these four are those of `preprocess.manifest.PackSettings`; the help repeats them.
@click.option("--size", type=int, help="Side of the packed square in pixels.  [default: 256]")
@click.option("--quality", type=int, help="JPEG quality of the packed image.  [default: 96]")
@click.option("--samples-per-shard", type=int, help="At most.  [default: 1024]")
@click.option("--seed", type=int, help="Decides the order in the shards.  [default: 0]")
@click.option("--split", type=_SPLIT, help="Put all into one split, whatever the official rule.")
@_WORKERS
@click.option("--slice", "part", metavar="N/COUNT", help="Pack a part; a run without ends them.")
@ENGINE
@ADDRESS
@click.option("--update", is_flag=True, help="Replace a pack of other photographs or settings.")
@click.option("--overwrite", is_flag=True, help="Also redo what is damaged or was dropped.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0),
    default=MAX_MEGAPIXELS,
    help="Larger photographs and masks are left out.",
)
@click.option("--tune/--no-tune", default=True, help="Keep freed memory.")
@reports_errors
def pack(
    source: str, out: str, split: str | None, workers: int | None, part: str | None,
    engine: str, address: str | None, update: bool, overwrite: bool, max_megapixels: float,
    tune: bool, **given: Any,
) -> None:  # fmt: skip
    """Pack a data set; continues after an interruption, redoes only what changed."""
    from preprocess.manifest import MANIFEST_FILE, PackSettings
    from preprocess.pack import PackConfig, pack_slice
    from preprocess.pack import pack as run
    from preprocess.runtime import tune_process

    settings = PackSettings(**{name: value for name, value in given.items() if value is not None})
    click.echo(tune_process(tune), err=True)
    root = place(out)
    config = PackConfig(
        place(source), root, settings, split, workers, overwrite, update, max_megapixels,
        ray=ray_address(engine, address),
    )  # fmt: skip
    if part is not None:
        done = pack_slice(config, *_number_and_count(part))
        click.echo(f"{out}: slice {part} is done, {done.shards} shards ({done.packed} samples now)")
        return
    report = run(config)
    from preprocess.show import save_preview, summary

    preview, made = root / "preview.png", (root / MANIFEST_FILE).stat().st_mtime
    if not preview.exists() or preview.stat().st_mtime < made:  # a kill may leave an older one
        save_preview(root, preview)
    click.echo(summary(root, report))


def _number_and_count(part: str) -> tuple[int, int]:
    from preprocess.errors import InputError

    numbers = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", part)
    if numbers is None:
        raise InputError("--slice", f"is {part!r}", "Expected 1/N to N/N, for example 3/16")
    return int(numbers[1]), int(numbers[2])


@main.command()
@_SHARDS
@reports_errors
def check(shards: str) -> None:
    """Read every sample back through DALI and webdataset, against the manifest."""
    from preprocess.check import check as run
    from preprocess.errors import InputError

    report = run(place(shards))
    for fault in report.faults[:20]:
        click.echo(fault, err=True)
    if report.faults:
        raise InputError(shards, f"{len(report.faults)} faults", "Pack again with --overwrite")
    readers = " and ".join(report.readers)
    click.echo(f"{shards}: {report.samples} samples, read through {readers}: ok")


@main.command()
@click.option("--out", type=_PATH, default=Path("data/sample"))
@click.option("--count", default=400, help="Number of faces.")
@click.option("--seed", default=0)
@click.option("--size", default=1024, help="Side of the images; masks have half of it.")
@_WORKERS
@reports_errors
def sample(out: Path, count: int, seed: int, size: int, workers: int | None) -> None:
    """Draw made-up faces in the official layout, for a first run without a download."""
    from preprocess.sample import SampleConfig, write_sample

    drawn = write_sample(out, SampleConfig(count, seed, size, max(1, size // 2)), workers)
    click.echo(f"{out}: {count} faces ({drawn} drawn now)")


@main.command()
@_SHARDS
@click.option("--split", type=_SPLIT, default="train")
@click.option("--count", type=click.IntRange(min=1), default=16, help="Number of samples.")
@click.option("--out", type=_PATH, default=Path("preview.png"))
@reports_errors
def show(shards: str, split: str, count: int, out: Path) -> None:
    """Draw packed images, labels and outlines as a picture grid."""
    from preprocess.show import save_preview

    save_preview(place(shards), out, split, count)
    click.echo(f"{out}: {count} samples of {split}")

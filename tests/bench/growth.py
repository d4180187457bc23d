"""Growth: from a thousand samples to a hundred thousand.

The samples of the larger sets are not all different: every set consists of hard links to the drawn
faces' files under other numbers, in the official layout, packed at 256 x 256, 1,000 samples a
shard, by the real packer with a worker a core. Every figure comes from a fresh process; sizes take
turns; median (lowest to highest) over the rounds; the files are in the page cache. Memory is the
largest resident set of the process and, in packing, that of its largest worker.

Packing counts from the call of `pack`, once for each set. Loading: as training asks for samples,
one epoch after the other for six seconds; "first batch s" counts from opening the split to the
first batch, imports apart; "long" loads the largest set for a minute. Training: steps of the
default network, crops and augmentation included.
"""

import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import contest
import material
import page
from contest import Contender, Figures, Results
from material import BATCH, SIZE
from rulers import rate

from preprocess.sample import SampleConfig, write_sample

LOADERS = ("dali", "portable")
KINDS = {"packing": "pack", "training": "train"} | {f"loading, {k}": f"load {k}" for k in LOADERS}
FLAT, FIRST_BATCH = 0.9, 2.0
FACES, SHARD, BYTES = 500, 1000, 32_000  # of a packed sample, at most
LOADING, LONG, TRAINING = 6.0, 60.0, 40.0  # seconds


def peak_memory() -> float:
    """Return the largest resident sets of this process and of a child, together, MB."""
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(resource.getrusage(who).ru_maxrss for who in whose) / 1000


def pack(folder: str, size: int) -> Figures:
    """Pack a set afresh with a worker a core."""
    source, out = Path(folder, f"set-{size}"), Path(folder, f"pack-{size}")
    shutil.rmtree(out, ignore_errors=True)
    report = material.pack_all(source, out, "train", SHARD)
    return {"images/s": report.packed / report.seconds, "peak MB": peak_memory()}


def load(folder: str, size: int, kind: str, seconds: float) -> Figures:
    """Load samples as training does, epoch after epoch, for so many seconds."""
    import torch

    import train.loop  # noqa: F401
    from train.data import Loader, decoder
    from train.split import Split

    decoder(kind)
    torch.set_num_threads(1)
    started = time.perf_counter()
    split = Split.open(Path(folder, f"pack-{size}"), "train")
    batches = material.loaded(split, Loader(split, torch.device("cpu"), kind), BATCH)
    next(batches)
    first = time.perf_counter() - started
    speed = rate(batches, BATCH, seconds)
    batches.close()
    return {"images/s": speed, "first batch s": first, "peak MB": peak_memory()}


def train(folder: str, size: int, seconds: float) -> Figures:
    """Train the default network for so many seconds, as the inner loop of `train.loop` does."""
    import torch

    from train.config import TrainConfig
    from train.data import Loader
    from train.model import UNet, to_channels_last
    from train.split import Split
    from train.step import TrainStep

    config = TrainConfig(Path(folder, f"pack-{size}"), batch=BATCH)
    torch.manual_seed(config.seed)
    step = TrainStep(to_channels_last(UNet(config.model)), config.lr)
    split = Split.open(config.shards, "train")
    batches = material.shown(config, split, Loader(split, torch.device("cpu")))
    speed = rate((step(*inputs, 1.0, 0.998) for inputs in batches), BATCH, seconds)
    batches.close()
    return {"images/s": speed, "peak MB": peak_memory()}


def measure(place: Path, sizes: Sequence[int], rounds: int) -> Results:
    """Build the sets and measure everything."""
    for size in sizes:
        material.repeat(place / "drawn", place / f"set-{size}", {"train": size})

    def entrants(name: str, function: str, some: Sequence[int], **more: Any) -> list[Contender]:
        work = {"folder": place, **more}
        return [
            Contender(f"{name} {size:,}", "", "growth.py", function, work | {"size": size})
            for size in some
        ]

    contests = [(1, entrants("pack", "pack", sizes))]
    for kind in LOADERS:
        some = entrants(f"load {kind}", "load", sizes, kind=kind, seconds=LOADING)
        contests.append((rounds, some))
    contests.append((rounds, entrants("train", "train", sizes, seconds=TRAINING)))
    for kind in LOADERS:
        some = entrants(f"long, load {kind}", "load", sizes[-1:], kind=kind, seconds=LONG)
        contests.append((1, some))
    figures: dict[str, Sequence[Figures]] = {}
    for times, some in contests:
        figures |= contest.run_rounds(some, times).figures
    return Results([], figures)


def bars(found: Results, sizes: Sequence[int]) -> list[str]:
    """Hold the results against what was promised."""
    lines, largest = [], f"{sizes[-1]:,}"
    for title, kind in KINDS.items():
        speeds = [found.median(f"{kind} {size:,}", "images/s") for size in sizes]
        peaks = [found.median(f"{kind} {size:,}", "peak MB") for size in sizes]
        slowest, memory = min(speeds) / max(speeds), peaks[0] / max(peaks)
        lines.append(page.bar(f"{title}, lowest over highest images/s", slowest, FLAT))
        label = f"{title}, peak memory of {sizes[0]:,} over the highest"
        lines.append(page.bar(label, memory, FLAT))
    for kind in LOADERS:
        part = f"load {kind} {largest}"
        speeds = [found.median(name, "images/s") for name in (f"long, {part}", part)]
        first = found.median(part, "first batch s")
        label = f"{part}: {LONG:g} seconds over the first {LOADING:g}, images/s"
        lines.append(page.bar(label, speeds[0] / speeds[1], FLAT))
        lines.append(page.bar(f"{part}: first batch", first, most=FIRST_BATCH, unit=" s"))
    return lines


def panel(found: Results, sizes: Sequence[int], title: str, **more: Any) -> page.Panel:
    """Show a figure of all that have it, over the sizes."""
    curves = {
        label: {float(size): found.of(f"{kind} {size:,}", title) for size in sizes}
        for label, kind in KINDS.items()
        if title in found.figures[f"{kind} {sizes[0]:,}"][0]
    }
    return page.Panel(title, "samples", curves, **more)


@click.command()
@contest.ROUNDS
@contest.OUT
@click.option("--sizes", default="1000,10000,100000", show_default=True)
def main(rounds: int, out: Path, sizes: str) -> None:
    """Measure packing, loading and training at several sizes; write OUT/growth.md."""
    numbers = sorted(int(size) for size in sizes.split(","))
    facts = page.facts("torch nvidia-dali-cuda120 numpy opencv-python-headless")
    facts["samples"] = f"{FACES} drawn faces, {SIZE} x {SIZE}, masks of half the side"
    with tempfile.TemporaryDirectory(prefix="growth-") as place:
        needed, free = 1.5 * BYTES * sum(numbers), shutil.disk_usage(place).free
        if free < needed:
            problem = f"{free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed"
            raise click.ClickException(f"{problem}: give another folder as TMPDIR")
        write_sample(Path(place, "drawn"), SampleConfig(FACES, size=SIZE, mask_size=SIZE // 2))
        found = measure(Path(place), numbers, rounds)
    page.plot_curves(
        out / "growth.png",
        panel(found, numbers, "images/s", log="xy"),
        panel(found, numbers, "peak MB", log="x"),
        panel(found, numbers, "first batch s", level=FIRST_BATCH, log="x"),
    )
    tables = {
        title: page.figure_table(found, [name for name in found.figures if job in name])
        for title, job in (("Packing", "pack"), ("Loading", "load"), ("Training", "train"))
    }
    section = page.Section("Figures", facts, tables, bars(found, numbers), "growth.png")
    page.write_page(out / "growth.md", __doc__, [section])


if __name__ == "__main__":
    contest.serve((pack, load, train), main)

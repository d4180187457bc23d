"""Growth: from a thousand samples to a hundred thousand.

The samples of the larger sets are not all different: every set consists of hard links to the drawn
faces' files under other numbers, in the official layout, packed at 256 x 256, 1,000 samples a
shard, by the real packer with a worker a core. Every figure comes from a fresh process; sizes take
turns; median (lowest to highest) over the rounds; the files are in the page cache. Memory is the
proportional set size of all processes together, its peak sampled four times a second.

Packing: "whole images/s" counts from the call of `pack`; "plan s" is the time that listing the
files takes, by itself; "CPU ms" an image is of all processes. Sets over 10,000 are packed once.
Loading: as training asks for samples, one epoch after the other until so many are loaded; "first
batch s" counts from opening the split to the first batch, imports apart; "whole epoch" is one of
the largest set. Training: steps of the default network, crops and augmentation included.
"""

import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import contest
import material
import page
from contest import Contender, Figures, Results
from material import BATCH, SIZE

from preprocess.celebamask import read_plan
from preprocess.sample import SampleConfig, write_sample

LOADERS = ("dali", "portable")
KINDS = {"packing": "pack", "training": "train"} | {f"loading, {k}": f"load {k}" for k in LOADERS}
FLAT, FIRST_BATCH = 0.9, 2.0
SHARD, WARM_STEPS = 1000, 4
PACK_AGAIN = 10_000  # larger sets are packed once, not every round
BYTES = 32_000  # of a packed sample, at most


@contextmanager
def watched_memory() -> Iterator[Callable[[], float]]:
    """Sample the memory of this process and its children; gives a function for the peak, MB."""
    peak, ended = 0.0, threading.Event()

    def look() -> float:
        nonlocal peak
        with suppress(OSError):  # a process has ended between two looks
            peak = max(peak, sum(map(memory, tree(os.getpid()))))
        return peak

    def keep_looking() -> None:
        while not ended.wait(0.25):
            look()

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield look
    finally:
        ended.set()
        thread.join()


def tree(process: int) -> list[int]:
    """List a process and all that descend from it."""
    files = list(Path(f"/proc/{process}/task").glob("*/children"))
    children = [int(child) for file in files for child in file.read_text().split()]
    return [process, *itertools.chain.from_iterable(map(tree, children))]


def memory(process: int) -> float:
    """Return the proportional set size, MB: shared pages count once over all processes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def pack(folder: str, size: int) -> Figures:
    """Pack a set afresh with a worker a core."""
    source, out = Path(folder, f"set-{size}"), Path(folder, f"pack-{size}")
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    read_plan(source)
    planned, cpu = time.perf_counter() - started, sum(os.times()[:4])
    with watched_memory() as peak:
        report = material.pack_all(source, out, "train", SHARD)
    return {
        "whole images/s": report.packed / report.seconds,
        "plan s": planned,
        "CPU ms": 1e3 * (sum(os.times()[:4]) - cpu) / report.packed,
        "peak MB": peak(),
    }


def load(folder: str, size: int, kind: str, take: int) -> Figures:
    """Load `take` samples as training does, through as many epochs as that needs."""
    begun = time.perf_counter()
    import torch

    import train.loop  # noqa: F401
    from train.data import Loader, decoder
    from train.split import Split

    decoder(kind)
    torch.set_num_threads(1)
    imported, cpu_imported = time.perf_counter(), time.process_time()
    with watched_memory() as peak:
        split = Split.open(Path(folder, f"pack-{size}"), "train")
        loader = Loader(split, torch.device("cpu"), kind)

        def loaded() -> Iterator[int]:
            for epoch in itertools.count():
                order = list(split.shuffled(BATCH, 0, epoch))
                for rows, batch in zip(order, loader.batches(order), strict=True):
                    split.eyes(rows)  # as training asks for them
                    yield len(batch.rows)

        counts = loaded()
        next(counts)
        started, cpu_started = time.perf_counter(), time.process_time()
        at_start, seen = memory(os.getpid()), 0
        while seen < take:
            seen += next(counts)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        counts.close()
    return {
        "images/s": seen / seconds,
        "CPU ms": 1e3 * cpu / seen,
        "first batch s": started - imported,
        "first batch CPU s": cpu_started - cpu_imported,
        "imports s": imported - begun,
        "start MB": at_start,
        "peak MB": peak(),
    }


def train(folder: str, size: int, steps: int) -> Figures:
    """Train the default network for some steps, as the inner loop of `train.loop` does."""
    import torch

    from train.config import TrainConfig
    from train.data import Loader
    from train.model import UNet, to_channels_last
    from train.split import Split
    from train.step import TrainStep

    config = TrainConfig(Path(folder, f"pack-{size}"), batch=BATCH)
    torch.manual_seed(config.seed)
    step = TrainStep(to_channels_last(UNet(config.model)), config.lr)
    with watched_memory() as peak:
        split = Split.open(config.shards, "train")
        batches = material.shown(config, split, Loader(split, torch.device("cpu")))
        for _ in range(WARM_STEPS):
            step(*next(batches), 1.0, 0.998)
        began, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            inputs = next(batches)
            waited += time.perf_counter() - asked
            step(*inputs, 1.0, 0.998)
        seconds = time.perf_counter() - began
        batches.close()
    speed = steps * BATCH / seconds
    return {"images/s": speed, "waiting %": 100 * waited / seconds, "peak MB": peak()}


def measure(place: Path, sizes: Sequence[int], rounds: int, take: int, steps: int) -> Results:
    """Build the sets and measure everything."""
    for size in sizes:
        material.repeat(place / "drawn", place / f"set-{size}", {"train": size})

    def entrants(name: str, function: str, some: Sequence[int], **more: Any) -> list[Contender]:
        return [
            Contender(f"{name} {size:,}", "", "growth.py", function,
                      {"folder": place, "size": size, **more})
            for size in some
        ]  # fmt: skip

    small, largest = [size for size in sizes if size <= PACK_AGAIN], sizes[-1]
    contests = [(1, entrants("pack", "pack", sizes)), (rounds - 1, entrants("pack", "pack", small))]
    for kind in LOADERS:
        contests.append((rounds, entrants(f"load {kind}", "load", sizes, kind=kind, take=take)))
    contests.append((rounds, entrants("train", "train", sizes, steps=steps)))
    for kind in LOADERS:
        name = f"whole epoch, load {kind}"
        contests.append((1, entrants(name, "load", [largest], kind=kind, take=largest)))
    figures: dict[str, list[Figures]] = {}
    for times, some in contests:
        for name, rows in contest.run_rounds(some, times).figures.items():
            figures.setdefault(name, []).extend(rows)
    return Results([], figures)


def bars(found: Results, sizes: Sequence[int]) -> list[str]:
    """Hold the results against what was promised."""
    lines, largest = [], f"{sizes[-1]:,}"
    for title, kind in KINDS.items():
        figure = "whole images/s" if kind == "pack" else "images/s"
        speeds = [found.median(f"{kind} {size:,}", figure) for size in sizes]
        peaks = [found.median(f"{kind} {size:,}", "peak MB") for size in sizes]
        slowest, memory = min(speeds) / max(speeds), peaks[0] / max(peaks)
        lines.append(page.bar(f"{title}, lowest over highest {figure}", slowest, FLAT))
        label = f"{title}, peak memory of {sizes[0]:,} over the highest"
        lines.append(page.bar(label, memory, FLAT))
    for kind in LOADERS:
        part = f"load {kind} {largest}"
        speeds = [found.median(name, "images/s") for name in (f"whole epoch, {part}", part)]
        first = found.median(part, "first batch s")
        label = f"{part}: a whole epoch over its first part, images/s"
        lines.append(page.bar(label, speeds[0] / speeds[1], FLAT))
        lines.append(page.bar(f"{part}: first batch", first, most=FIRST_BATCH, unit=" s"))
    return lines


def panel(found: Results, sizes: Sequence[int], title: str, **more: Any) -> page.Panel:
    """Show a figure of all that have it, over the sizes."""
    curves = {}
    for label, kind in KINDS.items():
        rows = [found.figures[f"{kind} {size:,}"] for size in sizes]
        for figure in [name for name in rows[0][0] if name in {title, f"whole {title}"}]:
            values = [[row[figure] for row in some] for some in rows]
            curves[label] = dict(zip(map(float, sizes), values, strict=True))
    return page.Panel(title, "samples", curves, **more)


@click.command()
@contest.ROUNDS
@contest.OUT
@click.option("--sizes", default="1000,10000,100000", show_default=True)
@click.option("--faces", type=click.IntRange(min=2), default=500, help="Different faces to draw.")
@click.option("--take", type=click.IntRange(min=1), default=10_000, help="Samples to load.")
@click.option("--steps", type=click.IntRange(min=1), default=60, help="Steps to train.")
@click.option("--work", type=contest.PATH, help="Where to put the sets, for a while.")
def main(
    rounds: int, out: Path, sizes: str, faces: int, take: int, steps: int, work: Path | None
) -> None:
    """Measure packing, loading and training at several sizes; write OUT/growth.md."""
    numbers = sorted(int(size) for size in sizes.split(","))
    facts = page.facts("torch nvidia-dali-cuda120 numpy opencv-python-headless")
    facts["samples"] = f"{faces} drawn faces, {SIZE} x {SIZE}, masks of half the side"
    with tempfile.TemporaryDirectory(prefix="growth-", dir=work) as place:
        needed, free = 1.5 * BYTES * sum(numbers), shutil.disk_usage(place).free
        if free < needed:
            problem = f"{free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed"
            raise click.ClickException(f"{problem}: give another folder as --work")
        write_sample(Path(place, "drawn"), SampleConfig(faces, size=SIZE, mask_size=SIZE // 2))
        found = measure(Path(place), numbers, rounds, take, steps)
    page.plot_curves(
        out / "growth.png",
        panel(found, numbers, "images/s", band=0.1, log="xy"),
        panel(found, numbers, "peak MB", band=0.1, log="x"),
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

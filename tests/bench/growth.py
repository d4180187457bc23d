"""Growth: packing, loading and training of 1,000, 10,000 and 100,000 samples, side by side.

    python tests/bench/growth.py --rounds 3 --out docs/benchmarks [--work /big/disk]

Some hundred faces are drawn once; every set consists of hard links to their files under other
numbers, in the official layout. Every measurement is a process of its own; sizes take turns.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import contest
from contest import ROOT, Contender, Figures

SIZE, BATCH, SHARD = 256, 16, 1000
LOADERS = ("dali", "portable")
PACKAGES = ("torch", "nvidia-dali-cuda120", "webdataset", "numpy", "opencv-python-headless")
FLAT, START = 0.9, 2.0
PACK_AGAIN = 10_000  # larger sets are packed once, not every round
BYTES = 32_000  # of a packed sample, at most
COMMAND = "python tests/bench/growth.py"


def link_set(drawn: Path, out: Path, count: int) -> None:
    """Lay out `count` samples that are hard links to the drawn ones."""
    from preprocess.celebamask import EYES, IMAGE_FOLDER, MASK_FOLDER

    there = sorted((drawn / IMAGE_FOLDER).glob("*.jpg"), key=lambda path: int(path.stem))
    masks = {path.name: path for path in (drawn / MASK_FOLDER).rglob("*_eye.png")}
    (out / IMAGE_FOLDER).mkdir(parents=True)
    for number in range(count):
        image = there[number % len(there)]
        (out / IMAGE_FOLDER / f"{number}.jpg").hardlink_to(image)
        folder = out / MASK_FOLDER / str(number // 2000)
        if number % 2000 == 0:
            folder.mkdir(parents=True)
        for eye in EYES:
            if mask := masks.get(f"{int(image.stem):05d}_{eye}.png"):
                (folder / f"{number:05d}_{eye}.png").hardlink_to(mask)


def tree(process: int) -> list[int]:
    """List a process and all that descend from it."""
    found = [process]
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        for child in file.read_text().split():
            found += tree(int(child))
    return found


def pss(processes: list[int]) -> float:
    """Proportional set size in MB: shared pages count once over all processes."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000


@contextmanager
def watched() -> Iterator[Callable[[], float]]:
    """Sample the memory of this process and its children; gives a function for the peak, MB."""
    peak, ended = 0.0, threading.Event()

    def look() -> float:
        nonlocal peak
        with suppress(OSError):  # a process has ended between two looks
            peak = max(peak, pss(tree(os.getpid())))
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


def run_pack(source: Path, out: Path) -> Figures:
    """Pack a set afresh with a worker a core."""
    from preprocess.runtime import tune_process

    tune_process()
    from preprocess import pack
    from preprocess.manifest import PackSettings

    first = 0.0
    real = pack._pack_samples

    def noted(*arguments: Any) -> Iterator[Any]:
        nonlocal first
        for sample in real(*arguments):
            first = first or time.perf_counter()
            yield sample

    pack._pack_samples = noted  # to tell start-up and packing apart
    shutil.rmtree(out, ignore_errors=True)
    settings = PackSettings(size=SIZE, samples_per_shard=SHARD)
    with watched() as peak:
        before = time.perf_counter()
        report = pack.pack(pack.PackConfig(source, out, settings, split="train"))
        ended = time.perf_counter()
    used = os.times()
    return {
        "images/s": report.packed / (ended - first),
        "whole images/s": report.packed / (ended - before),
        "start s": first - before,
        "CPU ms": 1e3 * (used.user + used.system + used.children_user + used.children_system)
        / report.packed,
        "peak MB": peak(),
    }  # fmt: skip


def run_load(root: Path, loader: str, take: int) -> Figures:
    """Load `take` samples as training does, through as many epochs as that needs."""
    begun = time.perf_counter()
    from preprocess.runtime import tune_process

    tune_process()
    import torch

    import train.loop  # noqa: F401
    from train.data import Loader, decoder
    from train.split import Split

    decoder(loader)
    torch.set_num_threads(1)
    imported, cpu = time.perf_counter(), time.process_time()
    with watched() as peak:
        split = Split.open(root, "train")
        opened = Loader(split, torch.device("cpu"), loader)

        def epoch(number: int) -> Any:
            order = list(split.shuffled(BATCH, 0, number))
            for rows, batch in zip(order, opened.batches(order), strict=True):
                split.eyes(rows)  # as training asks for them
                yield batch

        batches = epoch(0)
        next(batches)
        started, cpu_start = time.perf_counter(), time.process_time()
        at_start = pss([os.getpid()])
        seen, number, began = BATCH, 0, time.perf_counter()
        while seen - BATCH < take:
            for batch in batches:
                seen += len(batch.rows)
                if seen - BATCH >= take:
                    break
            else:
                number += 1
                batches = epoch(number)
        ended, cpu_end = time.perf_counter(), time.process_time()
        highest = peak()
        batches.close()
    return {
        "images/s": (seen - BATCH) / (ended - began),
        "CPU ms": 1e3 * (cpu_end - cpu_start) / (seen - BATCH),
        "first batch s": started - imported,
        "first batch CPU s": cpu_start - cpu,
        "imports s": imported - begun,
        "start MB": at_start,
        "peak MB": highest,
    }


def run_train(root: Path, steps: int) -> Figures:
    """Train the default network for some steps, as the inner loop of `train.loop` does."""
    from preprocess.runtime import tune_process

    tune_process()
    import torch

    from train.config import TrainConfig
    from train.data import Loader
    from train.distributed import Processes
    from train.loop import _View
    from train.model import UNet, to_channels_last
    from train.split import Split
    from train.step import TrainStep

    config = TrainConfig(root, root / "output", batch=BATCH)
    torch.manual_seed(config.seed)
    step = TrainStep(to_channels_last(UNet(config.model)), config.lr)
    warm, waited = 4, 0.0
    with watched() as peak:
        split = Split.open(root, "train")
        loader = Loader(split, torch.device("cpu"))

        def shown() -> Any:
            for epoch in itertools.count():
                view = _View(config, split, epoch, Processes().share(BATCH))
                for number, batch in enumerate(loader.batches(view.order)):
                    yield view(batch, number)

        batches = shown()
        for number in range(warm + steps):
            if number == warm:
                began, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            images, masks = next(batches)
            waited += time.perf_counter() - asked
            step(images, masks, 1.0, 0.998)
        seconds = time.perf_counter() - began
        highest = peak()
        batches.close()
    return {
        "images/s": steps * BATCH / seconds, "waiting %": 100 * waited / seconds,
        "peak MB": highest,
    }  # fmt: skip


def contender(job: str, size: int, folder: Path, *more: object) -> Contender:
    name = " ".join([job, *(str(m) for m in more if m in LOADERS), f"{size:,}"])
    command = [
        sys.executable, __file__, "--job", job, "--work", str(folder), "--sizes", str(size)
    ]  # fmt: skip
    for option, value in zip(("--take", "--loader"), more, strict=False):
        command += [option, str(value)]
    return Contender(name, "", tuple(command))


def measure(
    folder: Path, sizes: list[int], rounds: int, faces: int, take: int, steps: int
) -> dict[str, list[Figures]]:
    """Build the sets and measure everything; figures by contender, round by round."""
    from preprocess.sample import SampleConfig, write_sample

    write_sample(folder / "drawn", SampleConfig(faces, size=SIZE, mask_size=SIZE // 2))
    for size in sizes:
        link_set(folder / "drawn", folder / f"set-{size}", size)
    packs = [contender("pack", size, folder) for size in sizes]
    results = contest.run_rounds(packs, 1)
    small = [row for row, size in zip(packs, sizes, strict=True) if size <= PACK_AGAIN]
    if small and rounds > 1:
        for name, rows in contest.run_rounds(small, rounds - 1).items():
            results[name] += rows
    for size in sizes:
        shutil.rmtree(folder / f"set-{size}")
    for kind in LOADERS:
        loads = [contender("load", size, folder, take, kind) for size in sizes]
        results |= contest.run_rounds(loads, rounds)
    results |= contest.run_rounds(
        [contender("train", size, folder, steps) for size in sizes], rounds
    )
    whole = [contender("load", sizes[-1], folder, sizes[-1], kind) for kind in LOADERS]
    for name, rows in contest.run_rounds(whole, 1).items():
        results[f"whole epoch, {name}"] = rows
    return results


def kinds(sizes: list[int]) -> dict[str, list[str]]:
    """Map what is measured to the names of its contenders, size by size."""
    names = {"packing": "pack", "training": "train"}
    names |= {f"loading, {kind}": f"load {kind}" for kind in LOADERS}
    return {title: [f"{name} {size:,}" for size in sizes] for title, name in names.items()}


def under(label: str, value: float, most: float, unit: str) -> str:
    verdict = "reached" if value < most else "NOT REACHED"
    return f"{label}: {value:.2f}{unit} (bar: under {most:g}{unit}), {verdict}"


def bars(results: dict[str, list[Figures]], sizes: list[int]) -> list[str]:
    lines = []
    for title, names in kinds(sizes).items():
        speeds = [contest.median(results[name], "images/s") for name in names]
        lines.append(contest.bar(f"{title}, lowest over highest images/s", min(speeds)
                                 / max(speeds), FLAT))  # fmt: skip
    for title, names in kinds(sizes).items():
        peaks = [contest.median(results[name], "peak MB") for name in names]
        label = f"{title}, peak memory of {sizes[0]:,} over the highest"
        lines.append(contest.bar(label, peaks[0] / max(peaks), FLAT))
    for kind in LOADERS:
        whole = results[f"whole epoch, load {kind} {sizes[-1]:,}"][0]
        part = contest.median(results[f"load {kind} {sizes[-1]:,}"], "images/s")
        label = f"loading, {kind}: a whole epoch of {sizes[-1]:,} over its first part, images/s"
        lines.append(contest.bar(label, whole["images/s"] / part, FLAT))
        start = contest.median(results[f"load {kind} {sizes[-1]:,}"], "first batch s")
        lines.append(under(f"first batch of {sizes[-1]:,}, {kind}", start, START, " s"))
    return lines


def table(results: dict[str, list[Figures]], names: list[str], columns: dict[str, int]) -> str:
    rows = [
        [name, *(contest.spread((row[c] for row in results[name]), d) for c, d in columns.items())]
        for name in names
    ]
    return contest.markdown(["samples", *columns], rows)


def report(
    results: dict[str, list[Figures]], sizes: list[int], told: dict[str, str], options: str
) -> str:
    named = kinds(sizes)
    loads = [name for kind in LOADERS for name in named[f"loading, {kind}"]]
    packed = {"images/s": 0, "whole images/s": 0, "start s": 1, "CPU ms": 2, "peak MB": 0}
    loaded = {"images/s": 0, "CPU ms": 2, "first batch s": 2, "first batch CPU s": 2,
              "imports s": 1, "start MB": 0, "peak MB": 0}  # fmt: skip
    whole = [name for name in results if name.startswith("whole")]
    return "\n".join([
        "# Growth: from a thousand samples to a hundred thousand", "",
        "```", f"{COMMAND} {options}", "```", "",
        *(f"- {name}: {fact}" for name, fact in told.items()), "",
        "The samples of the larger sets are not all different: every set consists of hard links",
        f"to the drawn faces' files under other numbers, packed at {SIZE} x {SIZE}, {SHARD:,}",
        "samples a shard, by the real packer with a worker a core. Every figure comes from a",
        "fresh process; median (lowest to highest) over the rounds; the files are in the page",
        "cache. Memory is the proportional set size of all processes together, its peak sampled",
        "four times a second.", "",
        "![images/s and peak memory over the number of samples](growth.png)", "",
        "## Bars", "", *(f"- {line}" for line in bars(results, sizes)), "",
        "## Packing", "",
        "`images/s` counts from the first packed sample on, `whole images/s` from the call of",
        "`pack`; `start s` between them is the plan (every file is listed) and the start of the",
        f"workers. `CPU ms` an image is of all processes. Sets over {PACK_AGAIN:,} are packed",
        "once.", "",
        table(results, named["packing"], packed), "",
        "## Loading", "",
        "As in training, crops and augmentation included: one epoch after the other until so many",
        "samples are loaded. `first batch s` counts from opening the split to the first batch,",
        "imports apart. Below: one whole epoch of the largest set.", "",
        table(results, [*loads, *whole], loaded), "",
        "## Training", "",
        "Steps of the default network on such batches: forward, backward, optimisers, averaging.",
        "",
        table(results, named["training"], {"images/s": 1, "waiting %": 1, "peak MB": 0}), "",
    ])  # fmt: skip


def draw_plot(results: dict[str, list[Figures]], sizes: list[int], path: Path) -> None:
    """Draw figures over sizes; bands are a tenth around the smallest set's."""
    from matplotlib.figure import Figure

    shown = {
        "images/s": "images/s",
        "peak MB": "peak memory, MB",
        "first batch s": "first batch, s",
    }
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        for number, (label, names) in enumerate(kinds(sizes).items()):
            if column not in results[names[0]][0]:
                continue
            values = [[row[column] for row in results[name]] for name in names]
            middles = [contest.median(results[name], column) for name in names]
            low = [m - min(v) for m, v in zip(middles, values, strict=True)]
            high = [max(v) - m for m, v in zip(middles, values, strict=True)]
            colour = f"C{number}"
            axes.errorbar(
                sizes, middles, (low, high), marker="o", capsize=3, label=label, color=colour
            )
            if column != "first batch s":
                axes.axhspan(0.9 * middles[0], 1.1 * middles[0], color=colour, alpha=0.12)
        axes.set(xscale="log", xlabel="samples", title=title)
        if column == "images/s":
            axes.set_yscale("log")
            axes.legend(fontsize=8)
        if column == "first batch s":
            axes.axhline(START, color="0.4", linestyle=":")
        if column != "images/s":
            axes.set_ylim(0)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def do_job(job: str, folder: Path, size: int, loader: str, take: int) -> Figures:
    root = folder / f"pack-{size}"
    if job == "pack":
        return run_pack(folder / f"set-{size}", root)
    return run_load(root, loader, take) if job == "load" else run_train(root, take)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "benchmarks",
    help="Folder for growth.md and growth.png.",
)  # fmt: skip
@click.option("--sizes", default="1000,10000,100000", show_default=True)
@click.option("--faces", type=click.IntRange(min=2), default=500, help="Different faces to draw.")
@click.option("--take", type=click.IntRange(min=1), default=10_000, help="Samples to load.")
@click.option("--steps", type=click.IntRange(min=1), default=60, help="Steps to train.")
@click.option("--work", type=click.Path(path_type=Path), help="Where to put the sets, for a while.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write all measurements here.")
@click.option("--job", hidden=True)
@click.option("--loader", default="", hidden=True)
def main(
    rounds: int, out: Path, sizes: str, faces: int, take: int, steps: int, work: Path | None,
    to: Path | None, job: str, loader: str,
) -> None:  # fmt: skip
    """Measure packing, loading and training at several sizes, in interleaved rounds."""
    numbers = sorted(int(size) for size in sizes.split(","))
    if job and work:
        click.echo(json.dumps(do_job(job, work, numbers[0], loader, take)))
        return
    if work:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=work) as folder:
        needed, free = BYTES * sum(numbers), shutil.disk_usage(folder).free
        if free < 1.5 * needed:
            raise click.ClickException(
                f"{folder} has {free / 1e9:.1f} GB free, {1.5 * needed / 1e9:.1f} GB are needed: "
                "give another folder as --work"
            )
        told = contest.facts(PACKAGES)
        told["samples"] = f"{faces} drawn faces, {SIZE} x {SIZE}, masks of half the side"
        results = measure(Path(folder), numbers, rounds, faces, take, steps)
    options = f"--rounds {rounds} --sizes {sizes} --faces {faces} --take {take} --steps {steps}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.md").write_text(report(results, numbers, told, options))
    draw_plot(results, numbers, out / "growth.png")
    if to:
        contest.save(to, {"facts": told, "results": results})
    click.echo("\n".join(bars(results, numbers)))


if __name__ == "__main__":
    main()

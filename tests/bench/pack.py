"""Packing per core: this project against plain Pillow, in interleaved rounds of one run.

    python tests/bench/pack.py --rounds 5 [--data ../shared/data/CelebAMask-HQ] [--json FILE]

Every photograph is 1024 x 1024 with two 512 x 512 RGB mask PNGs; what is written is 256 x 256,
with the same JPEG settings for all. Each contender runs in a fresh process per round, in one
thread, with the files in the page cache; the order turns from round to round.
"""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

SIZE, SIDE = 256, 1024
BAR = 4.0
STAGES = ("read", "JPEG decode", "resize", "masks decode", "masks fit", "encode", "write", "rest")
CONTENDERS = {
    "plain": "Pillow, full decode, Lanczos",
    "plain+keep": "the same, freed memory kept",
    "draft": "Pillow, draft(512), Lanczos",
    "draft+keep": "the same, freed memory kept",
    "ours": "pack_sample + write_shard",
    "ours+keep": "the same, freed memory kept (as eyes-pack runs)",
    "limit+keep": "half-size decode and both masks, no more",
}
Samples = Iterator[tuple[str, dict[str, bytes]]]


def prepare(folder: Path, count: int, data: Path | None) -> str:
    """Fill a folder in the official layout with photographs that show both eyes."""
    from preprocess.celebamask import IMAGE_FOLDER, MASK_FOLDER, read_plan
    from preprocess.sample import SampleConfig, write_sample

    source = data
    if source is None:
        source = folder / "drawn"
        write_sample(source, SampleConfig(count + count // 3 + 4, 0, SIDE, SIDE // 2))
    both = [sample for sample in read_plan(source).samples if len(sample.masks) == 2][:count]
    if len(both) < count:
        raise click.ClickException(f"{source} has {len(both)} photographs with two eyes: too few")
    (folder / "set" / IMAGE_FOLDER).mkdir(parents=True)
    (folder / "set" / MASK_FOLDER / "0").mkdir(parents=True)
    for number, sample in enumerate(both):
        jpeg = as_photograph(sample.image.read(source))
        (folder / "set" / IMAGE_FOLDER / f"{number}.jpg").write_bytes(jpeg)
        for part, member in sample.masks.items():
            png = as_mask(member.read(source), again=data is None)
            (folder / "set" / MASK_FOLDER / "0" / f"{number:05d}_{part}.png").write_bytes(png)
    if data is None:
        return f"{count} drawn faces, {SIDE} x {SIDE}, masks written by Pillow's encoder"
    return (
        f"{count} photographs of {data}, scaled up to {SIDE} x {SIDE} (bicubic, JPEG quality 90) "
        "where they are smaller; masks as they are"
    )


def as_photograph(jpeg: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.size == (SIDE, SIDE):
            return jpeg
        large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return saved(large, "JPEG", quality=90)


def as_mask(png: bytes, again: bool) -> bytes:
    """Write a drawn mask with Pillow's own filters: its run-length form would be easy for us."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        if (picture.size, picture.mode) != ((SIDE // 2, SIDE // 2), "RGB"):
            raise click.ClickException(
                f"a mask is {picture.size} {picture.mode}, not 512 x 512 RGB"
            )
        return saved(picture, "PNG") if again else png


def saved(picture: Any, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def run_pillow(root: Path, plan: Any, settings: Any, draft: bool) -> None:
    """Do what most preparation scripts do."""
    import numpy as np
    from PIL import Image

    chroma = {"444": 0, "422": 1, "420": 2}[settings.subsampling]
    with tarfile.open(root / "out.tar", "w") as tar:
        for sample in plan.samples:
            with Image.open(plan.source / sample.image.name) as picture:
                if draft:
                    picture.draft("RGB", (2 * SIZE, 2 * SIZE))
                image = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            union = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
            for member in sample.masks.values():
                with Image.open(plan.source / member.name) as mask:
                    union |= np.asarray(mask.convert("L"))
            label = Image.fromarray(union).resize((SIZE, SIZE), Image.Resampling.NEAREST)
            for extension, content in (
                ("jpg", saved(image, "JPEG", quality=settings.quality, subsampling=chroma)),
                ("json", json.dumps({"key": sample.key}).encode()),
                ("png", saved(label, "PNG")),
            ):
                info = tarfile.TarInfo(f"{sample.key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def run_ours(root: Path, plan: Any, settings: Any) -> None:
    from preprocess import pack
    from preprocess.shards import write_shard

    samples: Samples = (
        (packed.key, packed.parts)
        for packed in (pack.pack_sample(plan.source, s, settings) for s in plan.samples)
    )
    write_shard(root, "out.tar", samples)


def run_limit(plan: Any) -> None:
    import simplejpeg

    from preprocess.mask import decode_mask

    for sample in plan.samples:
        data = sample.image.read(plan.source)
        simplejpeg.decode_jpeg(data, "RGB", min_height=2 * SIZE, min_width=2 * SIZE)
        for member in sample.masks.values():
            decode_mask(member.read(plan.source))


def run_stages(root: Path, plan: Any, settings: Any) -> dict[str, float]:
    """Run ours with a stopwatch around each stage's own function; CPU seconds."""
    import simplejpeg

    from preprocess import archive, image, pack
    from preprocess.shards import write_shard

    spent: dict[str, float] = defaultdict(float)

    def watch(owner: Any, name: str, stage: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return real(*args, **kwargs)
            finally:
                spent[stage] += time.thread_time() - start

        setattr(owner, name, timed)

    watch(archive.Member, "read", "read")
    watch(image, "_decode", "JPEG decode")
    watch(image, "fit", "resize")
    watch(pack, "decode_mask", "masks decode")
    watch(pack, "label_map", "masks fit")
    watch(simplejpeg, "encode_jpeg", "encode")
    watch(pack, "encode_label", "encode")
    watch(pack, "pack_sample", "whole sample")

    def samples() -> Samples:
        for raw in plan.samples:
            packed = pack.pack_sample(plan.source, raw, settings)
            yield packed.key, packed.parts

    start = time.thread_time()
    write_shard(root, "out.tar", samples())
    whole = spent.pop("whole sample")
    spent["rest"] = whole - sum(spent.values())
    spent["write"] = time.thread_time() - start - whole
    return {stage: spent[stage] for stage in STAGES}


def contend(name: str, folder: Path) -> dict[str, float]:
    """Measure one contender in this process, after a first pass that loads everything."""
    import dataclasses

    import cv2

    from preprocess.celebamask import read_plan
    from preprocess.manifest import PackSettings
    from preprocess.tuning import keep_freed_memory

    if name.endswith("+keep") and not keep_freed_memory():
        raise click.ClickException("this system's malloc cannot keep freed memory")
    cv2.setNumThreads(1)
    plan, settings = read_plan(folder / "set"), PackSettings(size=SIZE)
    few = dataclasses.replace(plan, samples=plan.samples[:4])
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        runs: dict[str, Callable[[Any], Any]] = {
            "plain": lambda plan: run_pillow(Path(out), plan, settings, draft=False),
            "draft": lambda plan: run_pillow(Path(out), plan, settings, draft=True),
            "ours": lambda plan: run_ours(Path(out), plan, settings),
            "limit": run_limit,
            "stages": lambda plan: run_stages(Path(out), plan, settings),
        }
        run = runs[name.removesuffix("+keep")]
        if name == "stages+keep":
            run_ours(Path(out), few, settings)
            return {k: v / len(plan.samples) for k, v in run(plan).items()}
        run(few)
        cpu, wall = time.process_time(), time.perf_counter()
        run(plan)
        result["cpu"] = (time.process_time() - cpu) / len(plan.samples)
        result["wall"] = (time.perf_counter() - wall) / len(plan.samples)
    return result


def fresh(name: str, folder: Path) -> dict[str, float]:
    """Run a contender in a process of its own; the user's malloc variables must not interfere."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, __file__, "--contender", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise click.ClickException(f"{name}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def spread(values: Iterable[float], unit: str = "") -> str:
    values = sorted(values)
    low, middle, high = values[0], statistics.median(values), values[-1]
    return f"{middle:.2f}{unit} ({low:.2f} to {high:.2f})"


def processor() -> str:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def report(results: dict[str, list[dict[str, float]]], stages: list[dict[str, float]]) -> str:
    ours = [row["cpu"] for row in results["ours+keep"]]
    lines = [f"{'contender':11} {'CPU ms an image':24} {'wall ms an image':26} times ours (CPU)"]
    for name, rows in results.items():
        cpu, wall = ([1e3 * row[kind] for row in rows] for kind in ("cpu", "wall"))
        times = [row["cpu"] / own for row, own in zip(rows, ours, strict=True)]
        lines.append(f"{name:11} {spread(cpu):24} {spread(wall):26} {spread(times, 'x')}")
    lines += ["", "ours+keep by stage, CPU ms an image:"]
    for stage in STAGES:
        lines.append(f"  {stage:14} {spread([1e3 * row[stage] for row in stages])}")
    lines.append("")
    for name in ("plain", "plain+keep"):
        ratio = statistics.median(
            row["cpu"] / own for row, own in zip(results[name], ours, strict=True)
        )
        verdict = "reached" if ratio >= BAR else "NOT REACHED"
        lines.append(
            f"bar: {BAR:.0f} times as many images a core as {name}: {ratio:.2f}, {verdict}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--count", type=click.IntRange(min=4), default=48, help="Photographs in each round.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else faces are drawn."
)
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write all measurements here.")
@click.option("--contender", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    rounds: int, count: int, data: Path | None, to: Path | None, contender: str, folder: Path
) -> None:
    """Compare packing per core with plain Pillow, in interleaved rounds."""
    if contender:
        click.echo(json.dumps(contend(contender, folder)))
        return
    from preprocess.cores import usable_cores
    from preprocess.manifest import PackSettings

    settings, names = PackSettings(size=SIZE), list(CONTENDERS)
    packages = ("numpy", "opencv-python-headless", "pillow", "simplejpeg", "zlib-ng")
    facts = {
        "processor": f"{processor()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
        ),
        "output": f"{SIZE} x {SIZE}, JPEG quality {settings.quality}, {settings.subsampling}",
    }
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as place:
        facts["photographs"] = prepare(Path(place), count, data)
        click.echo("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
        click.echo("\n".join(f"  {name:11} {what}" for name, what in CONTENDERS.items()))
        results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        stages = []
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                results[name].append(fresh(name, Path(place)))
            stages.append(fresh("stages+keep", Path(place)))
            click.echo(f"round {number + 1} of {rounds}", err=True)
    click.echo(f"\n{rounds} rounds, median (lowest to highest):\n{report(results, stages)}")
    if to:
        to.write_text(json.dumps({"facts": facts, "results": results, "stages": stages}, indent=2))


if __name__ == "__main__":
    main()

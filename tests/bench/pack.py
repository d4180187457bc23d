"""Packing: this project against Pillow, per core, in interleaved rounds of one run.

    python tests/bench/pack.py --rounds 5 [--data ../shared/data/CelebAMask-HQ]

Every photograph is 1024 x 1024 with two 512 x 512 RGB mask PNGs; what is written is 256 x 256,
with the same JPEG settings for all. Each contender runs in a fresh process a round, in one
thread, with the files in the page cache.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import contest
import document
import photographs
from contest import Contender, Figures, Stopwatch

SIZE = 256
TIMES_PLAIN, SHARE_OF_LIMIT, ZIP_COST = 4.0, 0.75, 1.1
DRAFT = "https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.draft"
MALLOC = "https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html"
STAGES = ("read", "JPEG decode", "resize", "masks decode", "masks fit", "encode", "write", "rest")
PACKAGES = ("numpy", "opencv-python-headless", "simplejpeg", "zlib-ng")
Samples = Iterator[tuple[str, dict[str, bytes]]]

TEXT = """
From an original of 1024 x 1024 and two mask PNGs to a finished shard of 256 x 256, milliseconds of
one core an image. The plain way decodes in full, resizes with Lanczos, decodes both masks, joins
them, and writes JPEG, PNG and tar, all with Pillow; `draft` lets libjpeg halve the picture while
decoding, as Pillow advises. "Memory kept" is what `preprocess.runtime` asks of malloc, given to the
peers through the environment; our packer asks by itself. The limit decodes the photograph at half
size and both masks, with the fastest decoders that we have, and does nothing else; ours decodes
straight to a quarter, which saves it the resizing and some of the decoding. The zip is made as
`zip -r` makes it: deflated.
"""


def contenders(place: Path, count: int, peers: Path) -> list[Contender]:
    """List who takes part."""
    from preprocess.manifest import PackSettings

    settings = PackSettings(size=SIZE)
    pillow = (
        str(peers), str(Path(__file__).with_name("peers") / "pack_pillow.py"),
        "--source", str(place / "set"), "--count", str(count), "--size", str(SIZE),
        "--quality", str(settings.quality), "--subsampling", settings.subsampling,
    )  # fmt: skip

    def own(name: str, what: str) -> Contender:
        command = (sys.executable, __file__, "--contender", name, "--place", str(place))
        return Contender(name, what, command)

    keep, kept = contest.KEEP_MEMORY, "the same, freed memory kept"
    return [
        Contender("plain", "Pillow, full decode, Lanczos", pillow),
        Contender("plain, memory kept", kept, pillow, MALLOC, keep),
        Contender("draft", "Pillow, draft(512), Lanczos", (*pillow, "--draft"), DRAFT),
        Contender("draft, memory kept", kept, (*pillow, "--draft"), MALLOC, keep),
        own("ours", "pack_sample and write_shard, as eyes-pack runs them"),
        own("ours, from the zip", "the same, read from a zip that stays packed"),
        own("limit", "half-size decode and both masks, nothing else, freed memory kept"),
        own("stages", "ours, with a stopwatch around every stage"),
    ]


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


def run_stages(root: Path, plan: Any, settings: Any) -> Figures:
    """Run ours with a stopwatch around each stage's own function; CPU seconds."""
    import simplejpeg

    from preprocess import archive, image, pack
    from preprocess.shards import write_shard

    stopwatch = Stopwatch()
    watch, spent = stopwatch.watch, stopwatch.spent

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
    return {stage: 1e3 * spent[stage] / len(plan.samples) for stage in STAGES}


def contend(name: str, place: Path) -> Figures:
    """Measure one of ours in this process, after a first pass that loads everything."""
    import cv2

    from preprocess.celebamask import read_plan
    from preprocess.manifest import PackSettings
    from preprocess.runtime import keep_freed_memory

    if not keep_freed_memory():
        raise click.ClickException("this system's malloc cannot keep freed memory")
    cv2.setNumThreads(1)
    plan = read_plan(place / ("set.zip" if name == "ours, from the zip" else "set"))
    few, settings = dataclasses.replace(plan, samples=plan.samples[:4]), PackSettings(size=SIZE)
    with tempfile.TemporaryDirectory(dir=place) as out:

        def work(plan: Any) -> None:
            if name == "limit":
                run_limit(plan)
            else:
                run_ours(Path(out), plan, settings)

        work(few)
        if name == "stages":
            return run_stages(Path(out), plan, settings)
        cpu, wall = time.process_time(), time.perf_counter()
        work(plan)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": 1e3 * cpu / len(plan.samples), "wall": 1e3 * wall / len(plan.samples)}


def measure(place: Path, rounds: int, count: int, data: Path | None, out: Path, peers: Path) -> Any:
    """Hold the contest on one set; return its section and all figures."""
    from preprocess.manifest import PackSettings

    settings = PackSettings(size=SIZE)
    facts = contest.facts(PACKAGES)
    facts["versions of the peers"] = contest.peer_versions(peers, ("pillow", "numpy"))
    facts["photographs"] = photographs.lay_out(place / "set", count, data)
    photographs.write_zip(place / "set", place / "set.zip")
    zipped = (place / "set.zip").stat().st_size / count / 1e3
    facts["zip"] = f"{zipped:.0f} KB a photograph with its masks"
    facts["output"] = f"{SIZE} x {SIZE}, JPEG quality {settings.quality}, {settings.subsampling}"
    facts["rounds"] = f"{rounds}, interleaved; medians (lowest to highest)"
    entrants = contenders(place, count, peers)
    results = contest.run_rounds(entrants, rounds)
    stages, ours = results.pop("stages"), results["ours"]
    rows = [
        (
            who.name,
            f"[{who.what}]({who.advice})" if who.advice else who.what,
            contest.spread(row["cpu"] for row in results[who.name]),
            contest.spread(row["wall"] for row in results[who.name]),
            contest.spread(contest.ratios(results[who.name], ours, "cpu"), unit="x"),
        )
        for who in entrants
        if who.name in results
    ]
    head = ("contender", "what it does", "CPU ms an image", "wall ms an image", "times ours (CPU)")
    shown = [(name, contest.spread(row[name] for row in stages)) for name in STAGES]

    def times(name: str) -> float:
        return contest.median([{"x": x} for x in contest.ratios(results[name], ours, "cpu")], "x")

    bars = [
        *(
            contest.bar(f"images a core, against {name}", times(name), TIMES_PLAIN)
            for name in ("plain", "plain, memory kept")
        ),
        contest.bar("share of the decode-only limit", times("limit"), SHARE_OF_LIMIT, ""),
        contest.ceiling("cost from the zip, against the folder", times("ours, from the zip"),
                        ZIP_COST),
    ]  # fmt: skip
    section = document.Section(
        "Made-up photographs" if data is None else data.name, facts,
        {"Contenders": contest.markdown(head, rows),
         "Ours by stage": contest.markdown(("stage", "CPU ms an image"), shown)},
        f"packing-{document.slug(data)}.png", bars,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    speeds = {name: [1e3 / row["cpu"] for row in rows] for name, rows in results.items()}
    contest.plot(
        out / section.picture, f"Packing: {section.title}", "photographs a second and core", speeds,
        ("ours", "ours, from the zip"),
    )  # fmt: skip
    return section, {"facts": facts, "results": results, "stages": stages}


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--count", type=click.IntRange(min=4), default=48, help="Photographs in each round.")
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ, besides made-up.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True
)
@click.option(
    "--peers-python", "peers", type=click.Path(path_type=Path), show_default=True,
    default=Path(".venv-bench/bin/python"), help="Python of the peers' environment.",
)  # fmt: skip
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--contender", hidden=True)
@click.option("--place", type=click.Path(path_type=Path), hidden=True)
def main(
    rounds: int, count: int, data: Path | None, out: Path, peers: Path, to: Path | None,
    contender: str, place: Path,
) -> None:  # fmt: skip
    """Compare packing with Pillow, and write OUT/packing.md."""
    if contender:
        click.echo(json.dumps(contend(contender, place)))
        return
    contest.check_peers(peers)
    sections, figures = [], {}
    for source in (None, data) if data else (None,):
        with tempfile.TemporaryDirectory(prefix="bench-pack-") as folder:
            section, found = measure(Path(folder), rounds, count, source, out, peers.absolute())
        click.echo(section.markdown())
        sections.append(section)
        figures[section.title] = found
    document.write_document(out / "packing.md", "Packing, side by side with Pillow", TEXT, sections)
    if to:
        contest.save(to, figures)


if __name__ == "__main__":
    main()

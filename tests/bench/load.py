"""Loading: shard to batch of bytes, this project against its peers, in images a second.

    python tests/bench/load.py --rounds 3 [--data ../shared/data/CelebAMask-HQ]

First every peer tries its settings once (workers, decoder, malloc) and keeps the fastest; then all
run in interleaved rounds, in fresh processes, on the same pixels, all shuffled, none augmented.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import contest
import document
import photographs
from contest import Contender, Figures
from loaders import PEERS, Peer, peers

FAST = "decoding alone, fast DCT"
BATCH, SIZE, TIMES = 16, 256, 8  # each photograph is packed under so many keys
TIMES_PLAIN = 10.0
PACKAGES = ("torch", "nvidia-dali-cuda120", "webdataset", "simplejpeg", "numpy")
PEER_PACKAGES = (
    "torch", "pillow", "simplejpeg", "opencv-python", "webdataset", "litdata",
    "mosaicml-streaming", "ffcv", "spdl", "nvidia-dali-cuda120", "numpy",
)  # fmt: skip
OURS = {
    "ours, DALI": "`train.dali`, every epoch decoded",
    "ours, portable": "`train.portable`, every epoch decoded",
    "ours, kept decoded": "`train.data`: from the second epoch on, as in training if they fit",
    "decoding alone": "`decode_sample` on bytes in memory, no batch made: the ceiling",
}

TEXT = """
From packed shard to a batch of 16 as it goes to the device: bytes, 256 x 256 x 3 and a mask, whole
shuffled epochs after one to warm up, images a second; the page cache holds the data. Every peer but
the plain Dataset stores the very JPEG bytes that our shards hold, and the PNG bytes too, in its own
format (FFCV has no PNG: its masks are grey JPEGs; it decodes with libjpeg-turbo's fast, less exact
DCT, the others with the exact one; it has no setting). LitData, MosaicML Streaming and SPDL
leave decoding to the user, and what decodes is the fastest that we know (simplejpeg for JPEG,
OpenCV for PNG). Peers run in an environment of their own (`tests/bench/requirements.txt`), each at
the fastest of the settings in the second table, tried at the start of the run; "memory kept" is
what `preprocess.runtime` asks of malloc, given through the environment. In the first epoch every
contender's pixels and masks are summed, and the run ends if the sums disagree. The ceiling is
decoding alone: all cores decode bytes that are in memory already and drop the pixels. "Exact" is
the fast DCT's advantage taken out: decoding alone with it, over decoding alone without. "Kept
decoded" is what training does from the second epoch on if the samples take at most a quarter of the
free memory; its bytes on disk are the same. CPU only.
"""


def contend(name: str, place: Path, least: float) -> Figures | None:
    """Run one of ours in this process, tuned as training tunes itself."""
    from preprocess.runtime import tune_process

    tune_process()
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch
    from peers import measure

    from train.data import Loader, decoding_threads
    from train.portable import decode_sample
    from train.split import Split

    split = Split.open(place / "shards", "train")
    if name.startswith("decoding alone"):
        samples = list(split.read(np.arange(split.samples, dtype=np.int32)))
        if "fast DCT" in name:
            import simplejpeg

            from train import portable

            portable.decode_rgb = lambda jpg, _: simplejpeg.decode_jpeg(jpg, "RGB", fastdct=True)
        pictures, started = 0, time.perf_counter()
        with ThreadPoolExecutor(decoding_threads()) as pool:
            while time.perf_counter() - started < least:
                for _ in pool.map(lambda s: decode_sample(s, SIZE) and None, samples):
                    pictures += 1
        return {"images": pictures / (time.perf_counter() - started)}
    kind, cache = "dali" if "DALI" in name else "portable", "64" if "kept" in name else "off"
    loader = Loader(split, torch.device("cpu"), kind, cache)

    def epoch(number: int) -> Any:
        order = list(split.shuffled(BATCH, 0, number))
        return ((batch.images, batch.masks) for batch in loader.batches(order))

    measure.measure(epoch, least)
    return None


def own(name: str, place: Path, least: float) -> Contender:
    """Build the contender of one of ours."""
    what = OURS.get(name, name)
    command = (sys.executable, __file__, "--contender", name, "--place", str(place))
    return Contender(name, what, (*command, "--least", str(least)))


def prepare(place: Path, count: int, data: Path | None, python: Path) -> dict[str, str]:
    """Make the photographs, pack them, and let every peer write its own format."""
    from preprocess.manifest import PackSettings
    from preprocess.pack import PackConfig, pack
    from preprocess.shards import read_samples

    facts = {"photographs": photographs.lay_out(place / "repeated", count, data)}
    subprocess.run(["cp", "-rl", str(place / "repeated"), str(place / "originals")], check=True)
    photographs.repeat(place / "repeated", count, TIMES)
    settings = PackSettings(size=SIZE, samples_per_shard=max(BATCH, count * TIMES // 8))
    pack(PackConfig(place / "repeated", place / "shards", settings, split="train"))
    (place / "files").mkdir()
    for shard in sorted((place / "shards" / "train").glob("*.tar")):
        for key, parts in read_samples(shard):
            for extension in ("jpg", "png"):
                (place / "files" / f"{key}.{extension}").write_bytes(parts[extension])
    for script in ("load_litdata.py", "load_mosaic.py", "load_ffcv.py"):
        command = (str(python), str(PEERS / script), "--data", str(place), "--prepare")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"{script} --prepare failed:\n{done.stderr[-2000:]}")
    facts["samples"] = (
        f"{count * TIMES} an epoch: each photograph under {TIMES} keys, so that starting an epoch "
        "weighs about as little as in the full set (the plain Dataset reads each once)"
    )
    return facts


def bytes_a_sample(path: Path, samples: int) -> str:
    """Say how large a stored sample is, in KB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / samples / 1e3:.1f}"


def try_settings(
    entrants: list[Peer], python: Path, place: Path, least: float, tries: int
) -> tuple[dict[str, str], list[tuple[str, str, float]]]:
    """Run every setting of every peer; return the fastest of each, and all figures."""
    best, tried = {}, []
    for peer in entrants:
        found = {}
        for label, contender in peer.contenders(python, place, least).items():
            found[label] = max(contest.run(contender)["images"] for _ in range(tries))
            tried.append((peer.name, label, found[label]))
            click.echo(f"trial: {peer.name}: {label}: {found[label]:.0f} images/s", err=True)
        best[peer.name] = max(found, key=lambda label: found[label])
    return best, tried


def check_agreement(results: dict[str, list[Figures]], samples: int, count: int) -> None:
    """End the contest where a contender delivers other pixels or masks, or too few of them."""
    wanted = results["ours, DALI"][0]
    for name, rows in results.items():
        if name.startswith("decoding alone"):
            continue
        found, whole = rows[0], count if name == "plain Dataset" else samples
        # The original's own resize differs a little, and so do masks that were JPEGs.
        if abs(found["level"] - wanted["level"]) > 1.0 or not (
            0.9 < found["eyes"] / wanted["eyes"] < 1.1 and found["pictures"] > 0.9 * whole
        ):
            raise click.ClickException(f"{name} delivers {found}, ours {wanted}")


def median_ratio(results: dict[str, list[Figures]], one: str, other: str) -> float:
    """Median over the rounds of how many times as fast one contender is as another."""
    rows = contest.ratios(results[one], results[other], "images")
    return contest.median([{"ratio": ratio} for ratio in rows], "ratio")


def bars(results: dict[str, list[Figures]], entrants: list[Peer]) -> list[str]:
    """Hold the results against what was promised."""
    return [
        contest.bar(f"ours, {kind}, against {peer.name}",
                    median_ratio(results, f"ours, {kind}", peer.name),
                    TIMES_PLAIN if peer.name == "plain Dataset" else 1.0)
        for kind in ("DALI", "portable") for peer in entrants
    ]  # fmt: skip


def measure_set(
    place: Path, data: Path | None, options: dict[str, Any]
) -> tuple[document.Section, dict[str, Any]]:
    """Hold the contest; return its section and all figures."""
    from preprocess.runtime import usable_cores

    python, count, least = options["peers"], options["count"], options["least"]
    facts = contest.facts(PACKAGES)
    facts["versions of the peers"] = contest.peer_versions(python, PEER_PACKAGES)
    facts |= prepare(place, count, data, python)
    facts["rounds"] = f"{options['rounds']}, interleaved; medians (lowest to highest)"
    entrants = peers(usable_cores())
    best, tried = try_settings(entrants, python, place, options["trial"], options["tries"])
    contenders = [
        *(peer.contenders(python, place, least)[best[peer.name]] for peer in entrants),
        *(own(name, place, least) for name in OURS),
        own(FAST, place, least),
    ]
    results = contest.run_rounds(contenders, options["rounds"])
    fast = results.pop(FAST)
    check_agreement(results, count * TIMES, count)
    exact = contest.ratios(fast, results["decoding alone"], "images")
    facts["decoding alone with the fast DCT"] = f"{contest.spread(exact)} times the exact one"
    stored = {peer.name: peer.stored for peer in entrants}
    samples = {"originals": count}
    sizes = {
        what: bytes_a_sample(place / what, samples.get(what, count * TIMES))
        for what in {"shards", *stored.values()}
    }
    rows = [
        (
            who.name,
            f"[{who.what}]({who.advice})" if who.advice else who.what,
            best.get(who.name, f"{usable_cores()} cores, tuned as in training"),
            sizes[stored.get(who.name, "shards")],
            contest.spread((row["images"] for row in results[who.name]), 0),
            contest.spread(contest.ratios(results[who.name], results["decoding alone"], "images")),
            *(contest.spread(contest.ratios(results[ours], results[who.name], "images"), unit="x")
              for ours in ("ours, DALI", "ours, portable")),
        )
        for who in contenders
        if who.name in results
    ]  # fmt: skip
    head = (
        "contender",
        "what it does",
        "setting",
        "KB a sample",
        "images/s",
        "share of the ceiling",
        "ours, DALI, against",
        "ours, portable, against",
    )
    tables = {"Contenders": contest.markdown(head, rows)}
    shown = [(name, label, f"{speed:.0f}") for name, label, speed in tried]
    head = ("peer", "setting", "images/s")
    tables["Settings tried at the start"] = contest.markdown(head, shown)
    title = "Made-up photographs" if data is None else data.name
    picture = f"loading-{document.slug(data)}.png"
    section = document.Section(title, facts, tables, picture, bars(results, entrants))
    options["out"].mkdir(parents=True, exist_ok=True)
    speeds = {name: [row["images"] for row in rows] for name, rows in results.items()}
    contest.plot(options["out"] / picture, f"Loading: {title}", "images a second", speeds,
                 tuple(OURS))  # fmt: skip
    found = {"facts": facts, "tried": tried, "results": results}
    return section, found


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--count", type=click.IntRange(min=16), default=128, help="Photographs.")
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else made up.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True
)
@click.option(
    "--peers-python", "peers", type=click.Path(path_type=Path), show_default=True,
    default=Path(".venv-bench/bin/python"), help="Python of the peers' environment.",
)  # fmt: skip
@click.option("--least", default=1.5, help="Seconds that a contender is measured a round.")
@click.option("--trial", default=0.8, help="Seconds that a setting is tried.")
@click.option("--tries", default=1, help="How often each setting is tried; the best counts.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--contender", hidden=True)
@click.option("--place", type=click.Path(path_type=Path), hidden=True)
def main(contender: str, place: Path, to: Path | None, data: Path | None, **options: Any) -> None:
    """Compare loaders, and write OUT/loading.md."""
    if contender:
        figures = contend(contender, place, options["least"])
        if figures is not None:
            click.echo(json.dumps(figures))
        return
    contest.check_peers(options["peers"])
    options["peers"] = options["peers"].absolute()
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        section, figures = measure_set(Path(folder), data, options)
    click.echo(section.markdown())
    title = "Loading, side by side with its peers"
    document.write_document(options["out"] / "loading.md", title, TEXT, [section])
    if to:
        contest.save(to, figures)


if __name__ == "__main__":
    main()

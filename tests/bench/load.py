"""Loading: shard to normalised float batch, this project against its peers, in images a second.

    python tests/bench/load.py --rounds 3 [--data ../shared/data/CelebAMask-HQ]

First every peer tries its settings once (workers, decoder, malloc) and keeps the fastest; then all
run in interleaved rounds, in fresh processes, on the same pixels, all shuffled, none augmented but
the four of ours that say so.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import contest
import document
import photographs
from contest import Contender, Figures
from loaders import PEERS, Peer, peers

BATCH, SIZE, TIMES = 16, 256, 8  # each photograph is packed under so many keys
TIMES_PLAIN, AUGMENTED = 15.0, 0.7
PACKAGES = ("torch", "nvidia-dali-cuda120", "webdataset", "simplejpeg", "numpy")
PEER_PACKAGES = (
    "torch", "pillow", "simplejpeg", "opencv-python", "webdataset", "litdata",
    "mosaicml-streaming", "ffcv", "nvidia-dali-cuda120", "numpy",
)  # fmt: skip
OURS = {
    "ours, DALI": "train.dali_loader",
    "ours, portable": "train.portable_loader",
    "ours, DALI, kept decoded": "the same, from the second epoch on, as in training where they fit",
    "ours, portable, kept decoded": "the same, from the second epoch on",
    "ours, DALI, augmented": "the same, every augmentation, whole pictures",
    "ours, portable, augmented": "the same, every augmentation, whole pictures",
    "ours, DALI, augmented crops": "the same, every augmentation, crops as in training",
    "ours, portable, augmented crops": "the same, every augmentation, crops as in training",
}

TEXT = """
From packed shard to normalised float32 batch of 16 (N x 3 x 256 x 256, and masks), whole shuffled
epochs after one to warm up, images a second; the page cache holds the data. Every peer but the
plain Dataset stores the very JPEG bytes that our shards hold, and the PNG bytes too, in its own
format (FFCV has no PNG: its masks are grey JPEGs; it decodes with libjpeg-turbo's fast, less exact
DCT, the others with the exact one). LitData and MosaicML Streaming store bytes, and
what decodes them is the fastest that we know (simplejpeg for JPEG, OpenCV for PNG). Peers run in an
environment of their own (`tests/bench/requirements.txt`), each at the fastest of the settings in
the second table, tried at the start of the run; "memory kept" is what `preprocess.tuning` asks of
malloc, given through the environment. In the first epoch every contender's pixels and masks are
summed, and the run ends where the sums disagree. "Kept decoded" is what training does from the
second epoch on where the samples take at most a quarter of the free memory (4 bytes a pixel); its
bytes on disk are the same. CPU only: with a GPU the order may be another.
"""


def contend(name: str, place: Path, least: float) -> Figures | None:
    """Run one of ours in this process, tuned as training tunes itself."""
    from preprocess.tuning import tune_process

    tune_process()
    import torch
    from peers import measure
    from train.batch import LoaderConfig
    from train.cache import SampleCache
    from train.loader import decoding_threads, open_loader, read_spec
    from train.order import SplitOrder

    from train.config import AugmentConfig, TrainConfig

    shards = place / "shards"
    training = TrainConfig(shards)
    augment, window = AugmentConfig.off(), None
    if "augmented" in name:
        augment = training.augment
    if "crops" in name and training.crop:
        window = training.crop.window(SIZE, training.model.stride)
    order = SplitOrder.read(shards, "train", BATCH, shuffle=True)
    config = LoaderConfig(
        order, read_spec(shards), augment, torch.device("cpu"), decoding_threads(None), window
    )
    if "kept decoded" in name:
        cache = SampleCache(order.samples, SIZE)
        config = dataclasses.replace(config, cache=cache)
    if name.startswith("stages"):
        import stages

        return (stages.dali_stages if "DALI" in name else stages.portable_stages)(config)
    loader = open_loader(config, "dali" if "DALI" in name else "portable")
    height, width = (window.height, window.width) if window else (SIZE, SIZE)

    def epoch(number: int) -> Any:
        return ((batch.images, batch.masks) for batch in loader.epoch(number))

    measure.measure(epoch, least, (3, height, width))
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
        if "augmented" in name:
            continue
        found, whole = rows[0], count if name == "plain Dataset" else samples
        # The original's own resize differs a little, and so do masks that were JPEGs.
        if abs(found["level"] - wanted["level"]) > 0.03 or not (
            0.9 < found["eyes"] / wanted["eyes"] < 1.1 and found["pictures"] > 0.9 * whole
        ):
            raise click.ClickException(f"{name} delivers {found}, ours {wanted}")


def median_ratio(results: dict[str, list[Figures]], one: str, other: str) -> float:
    """Median over the rounds of how many times as fast one contender is as another."""
    rows = contest.ratios(results[one], results[other], "images")
    return contest.median([{"ratio": ratio} for ratio in rows], "ratio")


def bars(results: dict[str, list[Figures]], entrants: list[Peer]) -> list[str]:
    """Hold the results against what was promised."""
    lines = [
        contest.bar(f"ours, DALI, against {peer.name}",
                    median_ratio(results, "ours, DALI", peer.name),
                    TIMES_PLAIN if peer.name == "plain Dataset" else 1.0)
        for peer in entrants
    ]  # fmt: skip
    for kind in ("DALI", "portable"):
        for form in ("augmented", "augmented crops"):
            share = median_ratio(results, f"ours, {kind}, {form}", f"ours, {kind}")
            label = f"ours, {kind}, {form}, share of without"
            lines.append(contest.bar(label, share, AUGMENTED, ""))
    return lines


def measure_set(
    place: Path, data: Path | None, options: dict[str, Any], best: dict[str, str]
) -> tuple[document.Section, dict[str, Any], dict[str, str]]:
    """Hold the contest on one set; return its section, all figures and the chosen settings."""
    from preprocess.cores import usable_cores

    python, count, least = options["peers"], options["count"], options["least"]
    facts = contest.facts(PACKAGES)
    facts["versions of the peers"] = contest.peer_versions(python, PEER_PACKAGES)
    facts |= prepare(place, count, data, python)
    facts["rounds"] = f"{options['rounds']}, interleaved; medians (lowest to highest)"
    entrants, tried = peers(usable_cores()), []
    if not best:
        best, tried = try_settings(entrants, python, place, options["trial"], options["tries"])
    contenders = [
        *(peer.contenders(python, place, least)[best[peer.name]] for peer in entrants),
        *(own(name, place, least) for name in OURS),
        *(own(f"stages, {kind}", place, least) for kind in ("DALI", "portable")),
    ]
    results = contest.run_rounds(contenders, options["rounds"])
    spent = {kind: results.pop(f"stages, {kind}") for kind in ("DALI", "portable")}
    check_agreement(results, count * TIMES, count)
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
            contest.spread(contest.ratios(results["ours, DALI"], results[who.name], "images"),
                           unit="x"),
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
        "ours, DALI, against",
    )
    tables = {"Contenders": contest.markdown(head, rows)}
    if tried:
        shown = [(name, label, f"{speed:.0f}") for name, label, speed in tried]
        tables["Settings tried at the start"] = contest.markdown(
            ("peer", "setting", "images/s"), shown
        )
    stages = list(spent["DALI"][0])
    tables["Where the time goes, CPU ms a picture"] = contest.markdown(
        ("stage", "ours, DALI", "ours, portable"),
        [(stage, *(contest.spread((row[stage] for row in spent[kind]), 3) for kind in spent))
         for stage in stages],
    )  # fmt: skip
    title = "Made-up photographs" if data is None else data.name
    picture = f"loading-{document.slug(data)}.png"
    section = document.Section(title, facts, tables, picture, bars(results, entrants))
    options["out"].mkdir(parents=True, exist_ok=True)
    speeds = {name: [row["images"] for row in rows] for name, rows in results.items()}
    contest.plot(options["out"] / picture, f"Loading: {title}", "images a second", speeds,
                 tuple(OURS))  # fmt: skip
    found = {"facts": facts, "tried": tried, "results": results, "stages": spent}
    return section, found, best


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--count", type=click.IntRange(min=16), default=128, help="Photographs.")
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ, besides made-up.")
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
    sections, all_figures, best = [], {}, {}
    for source in (None, data) if data else (None,):
        with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
            section, found, best = measure_set(Path(folder), source, options, best)
        click.echo(section.markdown())
        sections.append(section)
        all_figures[section.title] = found
    title = "Loading, side by side with its peers"
    document.write_document(options["out"] / "loading.md", title, TEXT, sections)
    if to:
        contest.save(to, all_figures)


if __name__ == "__main__":
    main()

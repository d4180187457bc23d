"""Training on the CPU, side by side with its peers: images a second, or F1 over time.

    python tests/bench/training.py --rounds 3 [--data ../shared/data/CelebAMask-HQ]
    python tests/bench/training.py --f1 --seconds 300 [--data ...]

The first compares speed, in interleaved rounds; the second trains each contender alone for the same
time on the same pictures and draws validation F1 over seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import contest
import document
import photographs
from contest import Contender, Figures

SIZE, BAR, WAITING = 256, 3.0, 2.0
PEER = Path(__file__).with_name("peers") / "plain_train.py"
PACKAGES = ("torch", "nvidia-dali-cuda120", "numpy")
PEER_PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "torchvision", "pillow", "numpy")
GUIDE = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
ENCODERS = "https://smp.readthedocs.io/en/latest/encoders.html"
OURS = {
    "ours": "`train.loop.fit` as users run it: crops of a third of the area around the eyes",
    "ours, whole pictures": "the same with `--augment crop=off`: as many pixels as the peers",
}
CEILING = "ours, from one cached batch"
# malloc and OpenMP as `preprocess.runtime` sets them, through the environment: the guide's chapter
# on CPUs asks for an allocator that keeps memory, and two loader processes starve spinning threads.
TUNED = contest.KEEP_MEMORY | {"OMP_WAIT_POLICY": "PASSIVE"}

TEXT = """
From packed or loose files to weights, batch 16, float32, 256 x 256, on the CPU alone.

Ours: DALI loader, all augmentations, Muon and AdamW, averaged weights: the default recipe. It shows
the network parts of the pictures, a third of the area each, so an image of ours is less work than
one of a peer's; "whole pictures" compares like with like in pixels, and what an image teaches is in
[F1 over time](training-f1.md).

The plain loop: U-Net of 16 to 256 channels at full resolution (as many parameters as ours), torch
DataLoader with 2 workers, Pillow, Adam at 1e-3, BCE + Dice, flips; over files of 256 x 256 as
packed, or over the 1024 x 1024 originals. "tuned" adds channels_last, freed memory kept and
sleeping OpenMP threads. segmentation_models.pytorch has the encoder with the fewest parameters of
its table, from random weights as all others, and is tuned likewise. Whole steps are timed after a
first one; for ours it is the second epoch, with its start. Epochs are of ten steps here, so that
what starting one takes weighs more than in training: the share of waiting that was promised is held
against F1 over time, whose epochs are whole.
"""

TEXT_F1 = """
Each contender trains alone for so many seconds on the same training photographs (the peers on files
of 256 x 256, which hold the very bytes of our shards), all from random weights. Pixel counts over
the whole validation split at 256 x 256, threshold 0.5, by one function (`train.metrics`). Time for
evaluating is not counted. The tuned peers lower their rate along a cosine that ends with their
time, the plain loop keeps its own; ours ends its schedule with its last whole epoch.
"""


def contend(name: str, place: Path, seconds: float) -> Figures | None:
    """Train one of ours in this process, as `python -m train` does; 0 seconds: two epochs."""
    from preprocess.runtime import tune_process

    tune_process()
    from train.config import AugmentConfig, TrainConfig
    from train.loop import fit
    from train.model import UNet, parameter_count

    augment = AugmentConfig().with_changes(("crop=off",) if "whole" in name else ())
    if name == CEILING:
        return ceiling(place / "shards", seconds or 6.0)
    output = place / name.replace(" ", "-").replace(",", "")

    def train(epochs: int) -> Any:
        return fit(TrainConfig(place / "shards", output, epochs=epochs, augment=augment)).history

    parameters = parameter_count(UNet())
    if not seconds:
        (_, record) = train(2)
        return {
            "images_per_second": record.images_per_second,
            "waiting": record.waiting,
            "parameters": parameters,
        }
    # The schedule wants to know its end: one epoch tells how many fit into the time.
    (record,) = train(1)
    history = train(max(1, int(seconds / record.seconds)))
    curve, spent = [], 0.0
    for record in history:
        spent += record.seconds
        curve.append((spent, record.val_f1))
    (place / f"{name}.json").write_text(json.dumps(curve))
    total = sum(record.seconds for record in history)
    return {
        "images_per_second": sum(r.images_per_second * r.seconds for r in history) / total,
        "waiting": sum(r.waiting * r.seconds for r in history) / total,
        "parameters": parameters,
    }


def ceiling(shards: Path, seconds: float) -> Figures:
    """Train from one augmented batch, again and again: what no loader can exceed."""
    import time

    import torch

    from train.augment import augment
    from train.config import AugmentConfig
    from train.data import Loader
    from train.draw import draw
    from train.model import UNet, parameter_count, to_channels_last
    from train.split import Split
    from train.step import TrainStep

    split, config = Split.open(shards, "train"), AugmentConfig()
    rows = split.shuffled(16, 0, 0)[0]
    (batch,) = Loader(split, torch.device("cpu")).batches([rows])
    shape = config.crop.pixels(split.size, 32)
    numbers = draw(config, split.size, (0, 0, 0), split.eyes(rows), shape)
    inputs = augment(batch.images, batch.masks, numbers, shape)
    step = TrainStep(to_channels_last(UNet()), 5e-3)
    step(*inputs, 1.0, 0.9)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step(*inputs, 1.0, 0.9)
        steps += 1
    speed = 16 * steps / (time.perf_counter() - started)
    return {"images_per_second": speed, "waiting": 0.0,
            "parameters": parameter_count(step.model)}  # fmt: skip


def contenders(python: Path, place: Path, seconds: float, f1: bool) -> list[Contender]:
    """List all who take part."""
    entrants = [
        Contender(name, what, (sys.executable, __file__, "--contender", name, "--place", str(place),
                               "--seconds", str(seconds if f1 else 0)))
        for name, what in (OURS if f1 else OURS | {CEILING: "`train.step` alone"}).items()
    ]  # fmt: skip

    def peer(name: str, what: str, advice: str, *options: str, tuned: bool) -> Contender:
        source = place / ("set" if "--originals" in options else "files")
        command = [str(python), str(PEER), "--data", str(source), "--seconds", str(seconds)]
        command += [*options, *(["--tuned"] if tuned else [])]
        if f1:
            command += ["--masks", str(place / "masks" / name), "--every", str(seconds / 12)]
        return Contender(name, what, tuple(command), advice, TUNED if tuned else {})

    entrants += [
        peer("plain loop", "U-Net of a tutorial over files of 256 x 256", GUIDE, tuned=False),
        peer("plain loop, tuned", "the same: channels_last, malloc, OpenMP", GUIDE, tuned=True),
        peer("segmentation_models.pytorch", "Unet, mobilenet_v2, tuned likewise", ENCODERS,
             "--network", "smp", tuned=True),
    ]  # fmt: skip
    if not f1:
        entrants.append(
            peer("plain loop, originals", "the plain loop over 1024 x 1024 photographs and masks",
                 GUIDE, "--originals", tuned=False)
        )  # fmt: skip
    return entrants


def prepare(place: Path, count: int, data: Path | None, f1: bool) -> dict[str, str]:
    """Pack the photographs, and lay the packed bytes out as files for the peers."""
    from preprocess.manifest import Manifest, PackSettings
    from preprocess.pack import PackConfig, pack
    from preprocess.shards import read_samples

    if f1 and data:
        source, said = data, f"all of {data.name}, split by the official rule"
    else:
        source = place / "set"
        said = photographs.lay_out(source, count, data)
    pack(PackConfig(source, place / "shards", PackSettings(size=SIZE)))
    manifest = Manifest.load(place / "shards")
    for split in ("train", "val"):
        folder = place / "files" / split
        folder.mkdir(parents=True)
        for shard in manifest.split(split).shards:
            for key, parts in read_samples(place / "shards" / shard.name):
                for extension in ("jpg", "png"):
                    (folder / f"{key}.{extension}").write_bytes(parts[extension])
    counts = ", ".join(f"{manifest.split(s).samples} {s}" for s in ("train", "val"))
    return {"photographs": f"{said}; {counts}"}


def curve_of(masks: Path, truth: Path) -> list[tuple[float, float]]:
    """Return seconds and F1 for the masks that a peer wrote, by our own evaluation."""
    import numpy as np
    import torch

    from preprocess.mask import decode_label
    from train.metrics import metrics_of, pixel_counts

    labels = [decode_label(path.read_bytes(), path.name) for path in sorted(truth.glob("*.png"))]
    wanted = torch.from_numpy(np.stack(labels) > 0)[:, None].float()
    curve = []
    for path in sorted(masks.glob("*.npy"), key=lambda path: float(path.stem)):
        marked = torch.from_numpy(np.unpackbits(np.load(path), axis=-1))[:, None].float()
        if marked.shape != wanted.shape:
            raise click.ClickException(f"{path} has shape {marked.shape}, not {wanted.shape}")
        figures = metrics_of(pixel_counts(40 * marked - 20, wanted))
        curve.append((float(path.stem), figures.f1))
    if not curve:
        raise click.ClickException(f"{masks} holds no masks: nothing to evaluate")
    return curve


def reached(curve: Sequence[tuple[float, float]], f1: float) -> float | None:
    """Return the seconds after which a curve is at a value for the first time."""
    return next((seconds for seconds, value in curve if value >= f1), None)


def compare_speed(place: Path, options: dict[str, Any], facts: dict[str, str]) -> Any:
    """Hold the contest of images a second; return section and all figures."""
    entrants = contenders(options["peers"], place, options["seconds"], f1=False)
    results = contest.run_rounds(entrants, options["rounds"])
    facts["rounds"] = f"{options['rounds']}, interleaved; medians (lowest to highest)"
    speed = "images_per_second"
    rows = [
        (
            who.name,
            f"[{who.what}]({who.advice})" if who.advice else who.what,
            f"{results[who.name][0]['parameters'] / 1e6:.2f} M",
            contest.spread((row[speed] for row in results[who.name]), 1),
            contest.spread((100 * row["waiting"] for row in results[who.name]), 1, " %"),
            *(contest.spread(contest.ratios(results[own], results[who.name], speed), 2, "x")
              for own in OURS),
        )
        for who in entrants
    ]  # fmt: skip
    head = ("contender", "what it does", "parameters", "images/s", "waiting for data",
            *(f"{own}, against" for own in OURS))  # fmt: skip
    bars = []
    for own in OURS:
        for name in ("plain loop", "plain loop, tuned", "plain loop, originals"):
            times = contest.ratios(results[own], results[name], speed)
            middle = contest.median([{speed: value} for value in times], speed)
            bars.append(contest.bar(f"{own}, images/s against {name}", middle, BAR))
    share = contest.ratios(results["ours"], results[CEILING], speed)
    middle = contest.median([{speed: value} for value in share], speed)
    bars.append(contest.bar("ours, share of training from one cached batch", middle, 0.92, ""))
    picture = "training.png"
    tables = {"Contenders": contest.markdown(head, rows)}
    section = document.Section("Images a second", facts, tables, picture, bars)
    speeds = {name: [row[speed] for row in found] for name, found in results.items()}
    title = "Training on the CPU, 256 x 256, batch 16"
    contest.plot(options["out"] / picture, title, "images a second", speeds, tuple(OURS))
    return section, results


def compare_f1(place: Path, options: dict[str, Any], facts: dict[str, str]) -> Any:
    """Train each contender for the same time; return section and all curves."""
    seconds = options["seconds"]
    entrants = contenders(options["peers"], place, seconds, f1=True)
    curves: dict[str, list[tuple[float, float]]] = {}
    figures: dict[str, Figures] = {}
    for who in entrants:
        figures[who.name] = contest.run(who)
        if who.name in OURS:
            curves[who.name] = json.loads((place / f"{who.name}.json").read_text())
        else:
            curves[who.name] = curve_of(place / "masks" / who.name, place / "files" / "val")
        click.echo(f"{who.name}: F1 {curves[who.name][-1][1]:.4f}", err=True)
    facts["seconds"] = f"{seconds:g} each, one run, no other contender beside it"
    shares = (0.25, 0.5, 1.0)
    best = {name: max(curve, key=lambda point: point[1]) for name, curve in curves.items()}
    rows = []
    for name, curve in curves.items():
        then = [[f1 for at, f1 in curve if at <= share * seconds * 1.05] for share in shares]
        rows.append((
            name, *(f"{values[-1]:.4f}" if values else "-" for values in then),
            f"{best[name][1]:.4f} after {best[name][0]:.0f} s",
            f"{figures[name]['images_per_second']:.1f}",
            f"{100 * figures[name]['waiting']:.1f} %",
        ))  # fmt: skip
    head = ("contender", *(f"F1 after {share * seconds:.0f} s" for share in shares), "best",
            "images/s", "waiting for data")  # fmt: skip
    bars = []
    for own in OURS:
        for name in curves.keys() - OURS.keys():
            at, f1 = best[name]
            ours = reached(curves[own], f1)
            label = f"{own}: time to the best F1 of {name} ({f1:.4f}), its time over ours"
            never = "" if ours else "; ours never had it"
            bars.append(contest.bar(label + never, at / ours if ours else 0.0, BAR))
    waiting = 100 * figures["ours"]["waiting"]
    bars.append(contest.ceiling("ours, time waiting for data", waiting, WAITING, " percent"))
    picture = "training-f1.png"
    plot_curves(options["out"] / picture, curves)
    tables = {"F1 on val": contest.markdown(head, rows)}
    return document.Section("F1 over time", facts, tables, picture, sorted(bars)), curves


def plot_curves(path: Path, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draw F1 over seconds, a line a contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker="o", ms=3, label=name,
                  lw=2 if name in OURS else 1.2, ls="-" if name in OURS else "--")  # fmt: skip
    axes.set(title="Validation F1 over time of training on the CPU", xlabel="seconds", ylabel="F1")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else made up.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True
)
@click.option(
    "--peers-python", "peers", type=click.Path(path_type=Path), show_default=True,
    default=Path(".venv-bench/bin/python"), help="Python of the peers' environment.",
)  # fmt: skip
@click.option("--f1", is_flag=True, help="Train each for --seconds; F1 over time.")
@click.option("--seconds", type=float, help="Of a peer's steps, or of each training.  [6 or 300]")
@click.option("--count", type=click.IntRange(min=40), help="Photographs.  [200, or 400 for --f1]")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--contender", hidden=True)
@click.option("--place", type=click.Path(path_type=Path), hidden=True)
def main(contender: str, place: Path, to: Path | None, **options: Any) -> None:
    """Compare training on the CPU; write OUT/training.md, or OUT/training-f1.md with --f1."""
    f1, data = options["f1"], options["data"]
    if contender:
        click.echo(json.dumps(contend(contender, place, options["seconds"])))
        return
    if options["seconds"] is None:
        options["seconds"] = 300.0 if f1 else 6.0
    contest.check_peers(options["peers"])
    options["peers"] = options["peers"].absolute()
    options["out"].mkdir(parents=True, exist_ok=True)
    facts = contest.facts(PACKAGES)
    facts["versions of the peers"] = contest.peer_versions(options["peers"], PEER_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        facts |= prepare(Path(folder), options["count"] or (400 if f1 else 200), data, f1)
        compare = compare_f1 if f1 else compare_speed
        section, figures = compare(Path(folder), options, facts)
    click.echo(section.markdown())
    title = "Training on the CPU: F1 over time" if f1 else "Training on the CPU"
    name = "training-f1.md" if f1 else "training.md"
    document.write_document(options["out"] / name, title, TEXT_F1 if f1 else TEXT, [section])
    if to:
        contest.save(to, {"facts": facts, "figures": figures})


if __name__ == "__main__":
    main()

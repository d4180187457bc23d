"""Training on the CPU: images a second.

From packed or loose files to weights, batch 16, float32, 256 x 256, on the CPU alone.

Ours: DALI loader, all augmentations, Muon and AdamW, averaged weights: the default recipe. It shows
the network parts of the pictures, a third of the area each, so an image of ours is less work than
one of a peer's; "whole pictures" compares like with like in pixels, and what an image teaches is in
[F1 over time](training-f1.md).

The plain loop: U-Net of 16 to 256 channels at full resolution (as many parameters as ours), torch
DataLoader with 2 workers, Pillow, Adam at 1e-3, BCE + Dice, flips, over files of 256 x 256 as
packed. "tuned" adds channels_last, freed memory kept and sleeping OpenMP threads.
segmentation_models.pytorch has the encoder with the fewest parameters of its table, from random
weights as all others, and is tuned likewise. Whole steps are timed after a first one; for ours it
is the second epoch, with its start. Epochs are of ten steps here, so that what starting one takes
weighs more than in training: the share of waiting that was promised is held against F1 over time,
whose epochs are whole.
"""

import itertools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import contest
import material
import numpy as np
import page
import torch
from contest import Contender, Figures, Options
from material import BATCH
from rulers import rate

from preprocess.mask import decode_label
from train.config import AugmentConfig, TrainConfig
from train.data import Loader
from train.loop import fit
from train.metrics import metrics_of, pixel_counts
from train.model import UNet, parameter_count, to_channels_last
from train.split import Split
from train.step import TrainStep

F1_TEXT = """Training on the CPU: F1 over time.

Each contender trains alone for so many seconds on the same training photographs (the peers on files
of 256 x 256, which hold the very bytes of our shards), all from random weights. Pixel counts over
the whole validation split at 256 x 256, threshold 0.5, by one function (`train.metrics`). Time for
evaluating is not counted. The tuned peers lower their rate along a cosine that ends with their
time, the plain loop keeps its own; ours ends its schedule with its last whole epoch. A peer whose
F1 stays under 0.1 has learnt nothing, and sets no bar.
"""
BAR, WAITING, CACHED, LEARNT = 3.0, 2.0, 0.92, 0.1
PACKAGES = "torch nvidia-dali-cuda120 numpy"
PEER_PACKAGES = "torch segmentation-models-pytorch timm torchvision pillow numpy"
GUIDE = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
ENCODERS = "https://smp.readthedocs.io/en/latest/encoders.html"
OURS = "ours", "ours, whole pictures"
CEILING = "ours, from one cached batch"
# malloc and OpenMP as `preprocess.runtime` sets them, through the environment: the guide's chapter
# on CPUs asks for an allocator that keeps memory, and two loader processes starve spinning threads.
TUNED = contest.KEEP_MEMORY | {"OMP_WAIT_POLICY": "PASSIVE"}
Points = dict[float, float]  # F1 by seconds


def contenders(place: Path, seconds: float, f1: bool) -> list[Contender]:
    """List all who take part."""

    def own(name: str, what: str, function: str = "ours", **more: Any) -> Contender:
        return Contender(name, what, "training.py", function, {"place": place, **more})

    def peer(name: str, what: str, advice: str, tuned: bool, network: str = "plain") -> Contender:
        masks = place / "masks" / name if f1 else ""
        work = {"data": place / "files", "seconds": seconds, "tuned": tuned, "network": network,
                "masks": masks}  # fmt: skip
        environment = TUNED if tuned else {}
        return Contender(name, what, "peers/training.py", "train", work, advice, environment)

    train = partial(own, seconds=seconds if f1 else 0)
    crops = "`train.loop.fit` as users run it: crops of a third of the area around the eyes"
    whole = "the same with `--augment crop=off`: as many pixels as the peers"
    step = own(CEILING, "`train.step` alone", "ceiling", seconds=seconds)
    return [
        train("ours", crops, curve="ours.json", changes=[]),
        train("ours, whole pictures", whole, curve="whole.json", changes=["crop=off"]),
        *([] if f1 else [step]),
        peer("plain loop", "U-Net of a tutorial over files of 256 x 256", GUIDE, False),
        peer("plain loop, tuned", "the same: channels_last, malloc, OpenMP", GUIDE, True),
        peer("segmentation_models.pytorch", "Unet, mobilenet_v2, tuned", ENCODERS, True, "smp"),
    ]


def ours(place: str, curve: str, changes: Sequence[str], seconds: float) -> Figures:
    """Train as `python -m train` does: two epochs or, if seconds are given, for so long."""
    augment = AugmentConfig().with_changes(tuple(changes))

    def train(epochs: int) -> Any:
        output = Path(place, "run", curve)
        return fit(
            TrainConfig(Path(place, "shards"), output, epochs=epochs, augment=augment)
        ).history

    if seconds:
        # The schedule wants to know its end: one epoch tells how many fit into the time.
        (record,) = train(1)
        history = train(max(1, int(seconds / record.seconds)))
        ends = np.cumsum([record.seconds for record in history]).tolist()
        points = [(at, record.val_f1) for at, record in zip(ends, history, strict=True)]
        Path(place, curve).write_text(json.dumps(points))
    else:
        history = train(2)[1:]
    total = sum(record.seconds for record in history)
    return {
        "images": sum(r.images_per_second * r.seconds for r in history) / total,
        "waiting": 100 * sum(r.waiting * r.seconds for r in history) / total,
        "parameters": parameter_count(UNet()) / 1e6,
    }


def ceiling(place: str, seconds: float) -> Figures:
    """Train on one augmented batch, again and again: what no loader can exceed."""
    split, config = Split.open(Path(place, "shards"), "train"), TrainConfig(Path(), batch=BATCH)
    inputs = next(material.shown(config, split, Loader(split, torch.device("cpu"))))
    step = TrainStep(to_channels_last(UNet()), config.lr)
    speed = rate((step(*inputs, 1.0, 0.9) for _ in itertools.count()), BATCH, seconds)
    return {"images": speed, "waiting": 0.0, "parameters": parameter_count(step.model) / 1e6}


def prepare(options: Options, f1: bool) -> str:
    """Pack the photographs, lay the packed bytes out as files for the peers; say what they are."""
    source, place = options.data, options.place
    if f1 and source:
        said = f"all of {source.name}, split by the official rule"
    else:
        source = place / "set"
        said = material.lay_out(source, options.count, options.data)
    material.pack_all(source, place / "shards")
    for name in ("train", "val"):
        split = Split.open(place / "shards", name)
        material.write_files(split, place / "files" / name)
        said += f"; {split.samples} {name}"
    return said


def compare_speed(options: Options, seconds: float, facts: Any) -> page.Section:
    """Hold the contest of images a second."""
    entrants = contenders(options.place, seconds, f1=False)
    found = contest.run_rounds(entrants, options.rounds, options.peers)
    columns = {"images/s": ("images", 1), "M parameters": ("parameters", 2),
               "percent waiting for data": ("waiting", 1)}  # fmt: skip
    share = page.bar("ours, share of training from one cached batch",
                     found.ratio("ours", CEILING), CACHED, "")  # fmt: skip
    return page.contest_section(
        "Training on the CPU, 256 x 256, batch 16", options.out / "training.png", facts, found,
        OURS, columns, least={"plain loop": BAR, "plain loop, tuned": BAR}, bars=[share],
    )  # fmt: skip


def points_of(place: Path, who: Contender) -> Points:
    """Return F1 by seconds of a contender: ours as it says, a peer's by its masks of val."""
    if not who.is_peer:
        return dict(json.loads((place / who.arguments["curve"]).read_text()))
    files = sorted((place / "files" / "val").glob("*.png"))
    truth = np.stack([decode_label(path.read_bytes(), path.name) for path in files]) > 0
    wanted = torch.from_numpy(truth)[:, None].float()
    points = {}
    for path in sorted((place / "masks" / who.name).glob("*.npy"), key=lambda p: float(p.stem)):
        marked = torch.from_numpy(np.unpackbits(np.load(path), axis=-1))[:, None].float()
        points[float(path.stem)] = metrics_of(pixel_counts(40 * marked - 20, wanted)).f1
    return points


def time_bars(points: dict[str, Points]) -> list[str]:
    """Hold the time to each peer's best F1 against ours."""
    lines = []
    for own in OURS:
        for name in [name for name in points if name not in OURS]:
            at, best = max(points[name].items(), key=lambda point: point[1])
            if best < LEARNT:
                continue
            reached = next((then for then, f1 in points[own].items() if f1 >= best), None)
            label = f"{own}: time to the best F1 of {name} ({best:.4f}), its time over ours"
            never = "" if reached else "; ours never had it"
            lines.append(page.bar(label + never, at / reached if reached else 0.0, BAR))
    return lines


def compare_f1(options: Options, seconds: float, facts: Any) -> page.Section:
    """Train each contender for the same time."""
    entrants = contenders(options.place, seconds, f1=True)
    found = contest.run_rounds(entrants, 1, options.peers)
    points = {who.name: points_of(options.place, who) for who in entrants}
    facts["seconds"] = f"{seconds:g} each, one run, no other contender beside it"

    def after(share: float, who: Contender) -> str:
        then = [f1 for at, f1 in points[who.name].items() if at <= share * seconds * 1.05]
        return f"{then[-1]:.4f}" if then else "-"

    def best(who: Contender) -> str:
        at, f1 = max(points[who.name].items(), key=lambda point: point[1])
        return f"{f1:.4f} after {at:.0f} s"

    shares = (0.25, 0.5, 1.0)
    cells = {f"F1 after {share * seconds:.0f} s": partial(after, share) for share in shares}
    columns = {"images/s": ("images", 1), "percent waiting for data": ("waiting", 1)}
    waiting = found.median("ours", "waiting")
    bars = time_bars(points)
    bars.append(page.bar("ours, time waiting for data", waiting, most=WAITING, unit=" percent"))
    curves = {name: {at: [f1] for at, f1 in curve.items()} for name, curve in points.items()}
    picture, title = "training-f1.png", "F1 on val over time of training on the CPU"
    page.plot_curves(options.out / picture, page.Panel(title, "seconds", curves))
    tables = {"F1 on val": page.contender_table(found, columns, (), cells | {"best": best})}
    return page.Section("F1 over time", facts, tables, bars, picture)


@click.command()
@contest.contest_options(count=200)
@click.option("--f1", is_flag=True, help="Train each for --seconds; F1 over time.")
@click.option("--seconds", type=float, help="Of a peer's steps, or of each training.  [6 or 300]")
def main(options: Options, f1: bool, seconds: float | None) -> None:
    """Compare training on the CPU; write OUT/training.md, or OUT/training-f1.md with --f1."""
    facts = page.facts(PACKAGES, options.peers, PEER_PACKAGES)
    facts["photographs"] = prepare(options, f1)
    compare, name, text = compare_speed, "training", __doc__
    if f1:
        compare, name, text = compare_f1, "training-f1", F1_TEXT
    section = compare(options, seconds or (300.0 if f1 else 6.0), facts)
    page.write_page(options.out / f"{name}.md", text, [section])


if __name__ == "__main__":
    contest.serve((ours, ceiling), main)

"""Loading, side by side with its peers.

From packed shard to a batch of 16 as it goes to the device: bytes, 256 x 256 x 3 and a mask, whole
shuffled epochs after one to warm up, images a second, on the CPU; the page cache holds the data.
Every peer but the plain Dataset stores the very JPEG bytes that our shards hold, and the PNG bytes
too, in its own format (FFCV has no PNG: its masks are grey JPEGs; it decodes with libjpeg-turbo's
fast, less exact DCT, the others with the exact one; it has no setting). LitData, MosaicML Streaming
and SPDL leave decoding to the user, and what decodes is the fastest that we know (simplejpeg for
JPEG, OpenCV for PNG). Peers run in an environment of their own (`tests/bench/requirements.txt`),
each at the fastest of the settings that were tried (commit 6e35c31): one worker more than cores,
and malloc keeps freed memory, as `preprocess.runtime` asks it to. In the first epoch every
contender's pixels and masks are summed, and the run ends if the sums disagree. The ceiling is
decoding alone: all cores decode bytes that are in memory already and drop the pixels. "Kept
decoded" is what training does from the second epoch on if the samples take at most a quarter of the
free memory.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import click
import contest
import material
import page
import torch
from contest import Contender, Figures, Options, Results
from material import BATCH, SIZE
from peers.loading import PEERS
from rulers import measure_loading, rate

from preprocess.runtime import usable_cores
from train.data import Loader, decoding_threads
from train.portable import decode_sample
from train.split import Split

OURS, CEILING = ("ours, DALI", "ours, portable"), "decoding alone"
TIMES, PLAIN = 8, 10.0  # each photograph is packed under so many keys; the bar for the plain way
PEER_PACKAGES = (
    "torch pillow simplejpeg opencv-python webdataset litdata mosaicml-streaming ffcv spdl "
    "nvidia-dali-cuda120 numpy"
)


def contenders(place: Path, seconds: float) -> list[Contender]:
    """List the peers, our own ways, and the ceiling."""
    work = {"data": place, "workers": usable_cores() + 1, "seconds": seconds}
    peers = [
        Contender(name, peer.what, "peers/loading.py", "measure", work | {"name": name},
                  peer.advice, contest.KEEP_MEMORY)
        for name, peer in PEERS.items()
    ]  # fmt: skip

    def own(name: str, what: str, function: str, **more: Any) -> Contender:
        arguments = {"place": place, "seconds": seconds, **more}
        return Contender(name, what, "load.py", function, arguments)

    kept = "`train.data`: from the second epoch on, as in training if they fit"
    return [
        *peers,
        own("ours, DALI", "`train.dali`, every epoch decoded", "load", kind="dali"),
        own("ours, portable", "`train.portable`, every epoch decoded", "load", kind="portable"),
        own("ours, kept decoded", kept, "load", kind="portable", cache="64"),
        own(CEILING, "bytes in memory, no batch made: the ceiling", "decode_alone"),
    ]


def load(place: str, seconds: float, kind: str, cache: str = "off") -> Figures:
    split = Split.open(Path(place, "shards"), "train")
    loader = Loader(split, torch.device("cpu"), kind, cache)

    def epoch(number: int) -> Iterator[Any]:
        order = list(split.shuffled(BATCH, 0, number))
        return ((batch.images, batch.masks) for batch in loader.batches(order))

    return measure_loading(epoch, seconds)


def decode_alone(place: str, seconds: float) -> Figures:
    split = Split.open(Path(place, "shards"), "train")
    samples = [sample for rows in split.in_order(BATCH) for sample in split.read(rows)]
    with ThreadPoolExecutor(decoding_threads()) as pool:
        epochs = (list(pool.map(partial(decode_sample, size=SIZE), samples)) for _ in count())
        return {"images": rate(epochs, len(samples), seconds)}


def prepare(options: Options) -> dict[str, str]:
    """Make the photographs, pack them, and let every peer write its own format."""
    place, samples = options.place, TIMES * options.count
    said = material.lay_out(place / "originals", options.count, options.data)
    material.repeat(place / "originals", place / "repeated", {"train": samples})
    material.pack_all(place / "repeated", place / "shards", "train", max(BATCH, samples // 8))
    material.write_files(Split.open(place / "shards", "train"), place / "files")
    for name, peer in PEERS.items():
        if peer.prepare:
            work = {"name": name, "data": place}
            contest.run(Contender(name, "", "peers/loading.py", "prepare", work), options.peers)
    facts = (
        f"{samples} an epoch: each photograph under {TIMES} keys, so that starting an epoch "
        "weighs about as little as in the full set (the plain Dataset reads each once)"
    )
    return {"photographs": said, "samples": facts}


def check_agreement(found: Results, photographs: int) -> None:
    """End the contest if a contender delivers other pixels or masks, or too few of them."""
    wanted = found.figures[OURS[0]][0]
    for who in found.who_measured("level"):
        row = found.figures[who.name][0]
        whole = photographs if who.name == "plain Dataset" else photographs * TIMES
        # The original's own resize differs a little, and so do masks that were JPEGs.
        if abs(row["level"] - wanted["level"]) > 1.0 or not (
            0.9 < row["eyes"] / wanted["eyes"] < 1.1 and row["pictures"] > 0.9 * whole
        ):
            raise click.ClickException(f"{who.name} delivers {row}, ours {wanted}")


@click.command()
@contest.contest_options(count=128)
@click.option("--seconds", default=1.5, help="How long a contender is measured a round.")
def main(options: Options, seconds: float) -> None:
    """Compare loaders, and write OUT/loading.md."""
    facts = page.facts("torch nvidia-dali-cuda120 simplejpeg numpy", options.peers, PEER_PACKAGES)
    facts |= prepare(options)
    entrants = contenders(options.place, seconds)
    found = contest.run_rounds(entrants, options.rounds, options.peers)
    check_agreement(found, options.count)
    title, slug = options.set_name
    section = page.contest_section(
        title, options.out / f"loading-{slug}.png", facts, found, OURS, {"images/s": ("images", 0)},
        least={"plain Dataset": PLAIN},
        cells={"share of the ceiling": lambda who: page.spread(found.ratios(who.name, CEILING))},
    )  # fmt: skip
    page.write_page(options.out / "loading.md", __doc__, [section])


if __name__ == "__main__":
    contest.serve((load, decode_alone), main)

"""Past one machine, on paper: time and cost of packing and training.

Nothing on this page was run. It is arithmetic on measured constants, and a seeded simulation of
nodes that are slow or fail. To start machines and processes, minutes, is not counted. Constants:

- Packing: 267 images/s a core, 122 KB a photograph with its masks ([packing](packing.md), 3.74 ms).
- A packed sample: 34.4 KB; decoding: 900 images/s a core ([loading](loading.md), 1,799 on two).
- Operations of a step that the host asks a GPU for: 477 ([training](../training.md)).
- **Estimates, as no GPU has run this**: 37,800 images/s an H100 (operations alone say 10 to 16 s
  for 25 epochs of 24,183 pictures; this is the slow end), and 5 microseconds an operation.
- Nodes: 96 cores to pack (c7i.24xlarge), 192 cores and 8 H100 to train (p5.48xlarge), at 39.33
  dollars an hour (AWS Capacity Blocks, US East, until January 2025), 4.28 and 0.023 a GB-month (AWS
  list prices of 2024, not looked up again).
- A node fails every 6,330 hours: 419 failures in 54 days of 2,048 (Llama 3, arXiv 2407.21783).
- Assumptions: 5 GB/s from object storage to a node, 50 GB/s between nodes, log-normal speeds.

Packing: each node has its slice of the shards, a core packs one at a time. A node that fails comes
back after five minutes and packs anew what it was in the midst of; the slowest node is waited for.
Training: a step of `--batch` on all GPUs waits for the slowest node, and a failure anywhere takes
all back to the last epoch's checkpoint. If a quarter of a GPU's 80 GB has room for all samples
decoded, epochs are not decoded again; else each is, on the cores, while the GPUs compute.

So the bottleneck moves, at the defaults. A set that fits into a GPU is bound by the GPUs of one
node and, on several, by the host: shares of a batch get so small that to ask for the operations
takes longer than they take. A larger set is bound on one node by reading, with decoding (173,000
images/s) close behind. 64 nodes then train little faster than 8, unless the batch grows.
"""

import itertools
import math
from pathlib import Path

import click
import contest
import numpy as np
import numpy.typing as npt
import page

from preprocess.plan import samples_per_shard

PACK, DECODE, GPU = 267.0, 900.0, 37_800.0  # images/s of a core, a core, a GPU
PHOTOGRAPH, SAMPLE, DECODED = 122e3, 34.4e3, 4 * 256**2  # bytes
SHARD, GPUS, CORES, PACK_CORES = 1024, 8, 192, 96
ROOM, GRADIENT, BETWEEN = 20e9, 4 * 1.95e6, 50e9  # bytes, bytes, bytes/s
STEP, RESTART = 477 * 5e-6, 300.0  # seconds: the host's of a step, a node's to come back
EPOCHS, RUNS = 25, 200
SIZES, NODES = (30_000, 1_000_000, 50_000_000), (1, 8, 64)
KNOBS = {
    "cores": "more nodes, each with a slice",
    "shards": "fewer nodes, or `--samples-per-shard`: a core packs a shard at a time",
    "storage": "the pack on each node's own disk; more nodes",
    "decoding": "DALI's decoder on the GPU; a store that is shared out among the processes",
    "GPU": "more nodes",
    "launches": "a larger `--batch`, at the rate that fits",
}
Times = npt.NDArray[np.float64]


def packing(images: int, nodes: int, storage: float) -> dict[str, float]:
    """Return the seconds of the fullest slice, by what may bind it."""
    size = samples_per_shard(images, SHARD)
    shards = math.ceil(math.ceil(images / size) / nodes)
    return {
        "cores" if shards > PACK_CORES else "shards": math.ceil(shards / PACK_CORES) * size / PACK,
        "storage": shards * size * (PHOTOGRAPH + SAMPLE) / storage,
    }


def training(images: int, nodes: int, batch: int, storage: float) -> dict[str, float]:
    """Return the seconds of an epoch, by what may bind it."""
    steps, streamed = images / batch, images * DECODED > ROOM
    sharing = steps * 2 * (nodes - 1) / nodes * GRADIENT / BETWEEN  # a ring of the nodes
    return {
        "GPU": images / nodes / GPUS / GPU + sharing,
        "launches": steps * STEP + sharing,
        "decoding": streamed * images / nodes / CORES / DECODE,
        "storage": streamed * images / nodes * SAMPLE / storage,
    }


def simulate_packing(seconds: float, nodes: int, mtbf: float, spread: float) -> Times:
    """Return how long packing took, in each run; a failure costs half a shard in the mean."""
    rng = np.random.default_rng(nodes)
    own = seconds * np.exp(spread * rng.standard_normal((RUNS, nodes)))
    failures = rng.poisson(own / mtbf)
    lost = failures * (RESTART + rng.uniform(0, SHARD / PACK, own.shape))
    return np.asarray((own + lost).max(axis=1))


def simulate_training(epoch: float, nodes: int, mtbf: float, spread: float) -> Times:
    """Return how long all epochs took, in each run; a failure costs the epoch so far."""
    rng, rate = np.random.default_rng(nodes), nodes / mtbf
    speeds = np.exp(spread * rng.standard_normal((RUNS, EPOCHS, nodes)))
    whole = epoch * speeds.max(axis=-1)
    total = whole.sum(axis=1)
    if rate:
        for run, repeated in enumerate(rng.geometric(np.exp(-rate * whole)) - 1):
            for need, times in zip(whole[run], repeated, strict=True):
                ends = -np.log1p(rng.random(times) * np.expm1(-rate * need)) / rate
                total[run] += ends.sum() + times * RESTART
    return np.asarray(total)


def busiest(parts: dict[str, float]) -> tuple[str, float]:
    return max(parts.items(), key=lambda part: part[1])


@click.command()
@click.option("--batch", default=4096, help="Samples a step, of all GPUs.")
@click.option("--storage", default=5.0, help="GB/s from object storage to a node.")
@click.option("--train-hour", default=39.33, help="Dollars, of a node.")
@click.option("--pack-hour", default=4.28, help="Dollars, of a node.")
@click.option("--gb-month", default=0.023, help="Dollars.")
@click.option("--mtbf", default=6330.0, help="Hours between a node's failures.")
@click.option("--spread", default=0.05, help="Of the nodes' speed.")
@contest.OUT
def main(batch: int, storage: float, mtbf: float, spread: float, out: Path, **price: float) -> None:
    """Compute OUT/scale-model.md."""
    rows, stored = [], []
    curves: dict[str, dict[str, dict[float, Times]]] = {"pack": {}, "train": {}}
    for size, nodes in itertools.product(SIZES, NODES):
        pack_bound, packs = busiest(packing(size, nodes, 1e9 * storage))
        train_bound, trains = busiest(training(size, nodes, batch, 1e9 * storage))
        hours = {"pack": simulate_packing(packs, nodes, 3600 * mtbf, spread) / 3600,
                 "train": simulate_training(trains, nodes, 3600 * mtbf, spread) / 3600}  # fmt: skip
        for kind, values in hours.items():
            curves[kind].setdefault(f"{size:,} images", {})[float(nodes)] = values
        dollars = sum(nodes * np.median(hours[kind]) * price[f"{kind}_hour"] for kind in hours)
        rows.append((f"{size:,}", f"{nodes}", page.spread(60 * hours["pack"]), pack_bound,
                     page.spread(60 * hours["train"]), train_bound, f"{dollars:,.2f}"))  # fmt: skip
    for size in SIZES:
        epochs = EPOCHS if size * DECODED > ROOM else 1
        gigabytes = [size * each / 1e9 for each in (PHOTOGRAPH, SAMPLE, epochs * SAMPLE)]
        cells = [f"{each:,.0f}" for each in gigabytes]
        stored.append((f"{size:,}", *cells, f"{sum(gigabytes[:2]) * price['gb_month']:,.2f}"))
    head = ("images", "nodes", "packing, min", "bound by", "training, min", "bound by", "dollars")
    kept = ("images", "photographs, GB", "pack, GB", "read to train, GB", "dollars a month")
    tables = {
        f"{EPOCHS} epochs; median of {RUNS} runs (shortest to longest)": page.markdown(head, rows),
        "Storage and network": page.markdown(kept, stored),
        "What answers it": page.markdown(("bound by", "knob"), KNOBS.items()),
    }
    panels = (page.Panel(f"hours to {kind}", "nodes", of, log="xy") for kind, of in curves.items())
    page.plot_curves(out / "scale-model.png", *panels)
    section = page.Section("Figures", page.facts("numpy"), tables, picture="scale-model.png")
    page.write_page(out / "scale-model.md", __doc__, [section])


if __name__ == "__main__":
    main()

"""The GPU path: what each part can do alone, and how long training takes.

The loader alone (each decoder, streamed and from its store), the step alone (eager and as a graph),
both, the share of the ceiling (training from one cached batch), and real epochs of `train.loop.fit`
with evaluation, the first (cold) apart from the others (warm). Bar: 25 epochs of CelebAMask-HQ
(24,183 and 2,993 pictures of 256 x 256) in under 60 seconds on one H100-class GPU; the estimate
takes the slowest warm epoch. Without DATA, faces are drawn; either way samples are shown again
under other names until there are as many. `--device cpu --samples 256 --val 32` tries the script if
there is no GPU.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import contest
import material
import page
import torch
from material import SIZE
from rulers import rate

from preprocess.runtime import dali_is_installed
from preprocess.sample import SampleConfig, write_sample
from train.config import TrainConfig
from train.data import Loader
from train.device import resolve_device
from train.loop import fit
from train.model import UNet, to_channels_last
from train.split import Split
from train.step import TrainStep

TRAIN_SAMPLES, VAL_SAMPLES, EPOCHS, BAR_SECONDS = 24_183, 2_993, 25, 60.0
RECIPE_F1 = 0.9004  # docs/recipe.md
BATCHES, SECONDS = (64, 256, 1024), 5.0  # tried; of each measurement
Row = tuple[int, str, float]


def build_pack(place: Path, data: Path | None, counts: dict[str, int]) -> Path:
    """Pack photographs, as many of train and val as asked for, each of them again and again."""
    if data is None:
        data = place / "drawn"
        write_sample(data, SampleConfig(min(counts["train"], 1000) * 5 // 4, 0, SIZE, SIZE))
    material.repeat(data, place / "set", counts)
    material.pack_all(place / "set", place / "pack")
    return place / "pack"


def parts(root: Path, device: Any, batch: int, wait: Any) -> Iterator[Row]:
    """Measure loader, step, and both; yields (batch, what, images a second)."""
    split = Split.open(root, "train")
    config = TrainConfig(root, batch=batch)

    def speed(batches: Iterator[Any]) -> float:
        return rate(batches, batch, SECONDS, wait)

    for kind in ["dali"] * dali_is_installed() + ["portable"]:
        batches = material.loaded(split, Loader(split, device, kind), batch)
        yield batch, f"loader, {kind}, streamed", speed(batches)
    started = time.perf_counter()
    kept = Loader(split, device, "auto", "auto")
    batches = material.loaded(split, kept, batch)
    next(batches)
    wait()
    yield batch, "filling the store", split.samples / (time.perf_counter() - started)
    yield batch, f"loader, kept on {kept.place}", speed(batches)
    yield batch, "loader and augmentation", speed(material.shown(config, split, kept))
    one = next(material.shown(config, split, kept))
    ceiling = 0.0
    for captured in (False, True) if device.type == "cuda" else (False,):
        torch.manual_seed(0)
        step = TrainStep(to_channels_last(UNet(), device), config.lr)
        step._may_capture = captured
        ceiling = speed(step(*one, 1.0, 0.998) for _ in itertools.count())
        yield batch, f"step alone, {'graph' if captured else 'eager'}", ceiling
    shown = material.shown(config, split, kept)
    both = speed(step(*inputs, 1.0, 0.998) for inputs in shown)
    yield batch, "all of it", both
    yield batch, "share of the ceiling (step alone), percent", 100 * both / ceiling


def summary(history: Sequence[Any], total: float) -> tuple[list[tuple[str, str]], float]:
    """Return the figures of a run, and what a full run of the full set takes, in seconds."""
    warm = [record.seconds for record in history[1:]]
    rest = total - sum(record.seconds for record in history)
    estimate = history[0].seconds + (EPOCHS - 1) * max(warm) + rest
    spent = itertools.accumulate(record.seconds for record in history)
    passed = [at for at, record in zip(spent, history, strict=True) if record.val_f1 >= RECIPE_F1]
    return [
        ("first epoch (cold: decoding, kernels), s", f"{history[0].seconds:.2f}"),
        ("slowest warm epoch, s", f"{max(warm):.2f}"),
        ("all else (start, evaluation, files), s", f"{rest:.1f}"),
        ("best val F1", f"{max(record.val_f1 for record in history):.4f}"),
        (f"seconds to val F1 {RECIPE_F1}", f"{passed[0]:.1f}" if passed else "not reached"),
        (f"{EPOCHS} epochs, the warm ones all as slow as the slowest, s", f"{estimate:.1f}"),
    ], estimate


@click.command()
@click.option("--data", type=contest.PATH, help="CelebAMask-HQ; else drawn faces.")
@click.option("--device", default="cuda")
@click.option("--samples", default=TRAIN_SAMPLES, help="Training samples.")
@click.option("--val", default=VAL_SAMPLES, help="Validation samples.")
@contest.OUT
def main(data: Path | None, device: str, samples: int, val: int, out: Path) -> None:
    """Measure the GPU path; write OUT/gpu.md."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device: `--device cpu --samples 256 --val 32` tries it")
    where = resolve_device(device)
    is_cuda = where.type == "cuda"
    wait = torch.cuda.synchronize if is_cuda else (lambda: None)
    facts = page.facts("torch nvidia-dali-cuda120 numpy")
    facts["device"] = torch.cuda.get_device_name(where) if is_cuda else "CPU"
    facts["samples"] = f"{samples:,} train, {val:,} val, of {data.name if data else 'drawn faces'}"
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as place:
        root = build_pack(Path(place), data, {"train": samples, "val": val})
        rows = []
        for batch in (batch for batch in BATCHES if batch <= samples):
            for row in parts(root, where, batch, wait):
                click.echo(f"batch {row[0]}, {row[1]}: {row[2]:,.0f}", err=True)
                rows.append(row)
        chosen = max((row for row in rows if row[1] == "all of it"), key=lambda row: row[2])[0]
        started = time.perf_counter()
        run = TrainConfig(root, Path(place) / "run", epochs=EPOCHS, batch=chosen, device=device)
        history = fit(run).history
        figures, estimate = summary(history, time.perf_counter() - started)
    shown = [(str(batch), what, f"{speed:,.0f}") for batch, what, speed in rows]
    tables = {
        "Images a second": page.markdown(("batch", "", "images/s"), shown),
        f"`train.loop.fit`, {EPOCHS} epochs, batch {chosen}": page.markdown(("", ""), figures),
    }
    full = is_cuda and (samples, val) == (TRAIN_SAMPLES, VAL_SAMPLES)
    bars = [page.bar("25 epochs", estimate, most=BAR_SECONDS, unit=" s")] if full else []
    section = page.Section("From shards to weights", facts, tables, bars)
    page.write_page(out / "gpu.md", __doc__, [section])


if __name__ == "__main__":
    main()

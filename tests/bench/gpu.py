"""The whole path on a GPU: what each part can do alone, and how long training takes.

    make bench-gpu [DATA=path/to/CelebAMask-HQ]

Measured: the loader alone (each decoder, streamed and from its store), the step alone (eager and as
a graph), both, the share of the ceiling (training from one cached batch), and real epochs of
`train.loop.fit` with evaluation, the first (cold) apart from the others (warm). Bar: 25 epochs of
CelebAMask-HQ (24,183 and 2,993 pictures of 256 x 256) in under 60 seconds on one H100-class GPU;
the estimate takes the slowest warm epoch. Without DATA, faces are drawn; either way samples are
shown again under other names until there are as many. `--device cpu --samples 256 --val 32` tries
the script where there is no GPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import contest

TRAIN_SAMPLES, VAL_SAMPLES, EPOCHS, BAR_SECONDS = 24_183, 2_993, 25, 60.0
RECIPE_F1 = 0.9004  # docs/recipe.md
PACKAGES = ("torch", "nvidia-dali-cuda120", "numpy")


def build_pack(folder: Path, data: Path | None, counts: dict[str, int]) -> Path:
    """Pack photographs, and repeat the samples of train and val under other keys."""
    from preprocess.manifest import Manifest, PackSettings
    from preprocess.pack import PackConfig, pack
    from preprocess.sample import SampleConfig, write_sample
    from preprocess.shards import read_samples, write_shard

    source = data
    if source is None:
        source = folder / "drawn"
        write_sample(source, SampleConfig(min(counts["train"], 1000) * 5 // 4, 0, 256, 256))
    root = folder / "pack"
    pack(PackConfig(source, root, PackSettings(size=256)))
    manifest = Manifest.load(root)
    for split, count in counts.items():
        record = manifest.split(split)
        originals = [pair for shard in record.shards for pair in read_samples(root / shard.name)]
        shards = []
        for first in range(0, count, 1024):
            again = (
                (f"{number:06d}-{originals[number % len(originals)][0]}",
                 originals[number % len(originals)][1])
                for number in range(first, min(count, first + 1024))
            )  # fmt: skip
            shards.append(write_shard(root, f"{split}/eyes-{first // 1024:06d}.tar", again))
        changed = replace(record, samples=count, shards=tuple(shards))
        manifest = replace(manifest, splits=manifest.splits | {split: changed})
    manifest.save(root)
    return root


def rate(batches: Iterator[Any], count: int, seconds: float, wait: Callable[[], None]) -> float:
    """Images a second over about so many seconds, after five batches."""
    done, started = 0, 0.0
    for number, _ in enumerate(batches):
        if number == 5:
            wait()
            started = time.perf_counter()
        elif number > 5:
            done += count
            if time.perf_counter() - started > seconds:
                break
    wait()
    return done / (time.perf_counter() - started)


def parts(root: Path, device: Any, batch: int, seconds: float, wait: Callable[[], None]) -> Any:
    """Measure loader, step, and both; yields (what, images a second)."""
    import itertools

    import torch

    from preprocess.runtime import dali_is_installed
    from train.config import TrainConfig
    from train.data import Loader
    from train.loop import _View
    from train.model import UNet, to_channels_last
    from train.split import Split
    from train.step import TrainStep

    split = Split.open(root, "train")
    config = TrainConfig(root, batch=batch)
    mine = slice(0, batch)

    def again(loader: Loader) -> Iterator[Any]:
        for epoch in itertools.count():
            yield from loader.batches(_View(config, split, epoch, mine).order)

    def shown(loader: Loader) -> Iterator[Any]:
        for epoch in itertools.count():
            view = _View(config, split, epoch, mine)
            for number, decoded in enumerate(loader.batches(view.order)):
                yield view(decoded, number)

    kinds = ["dali"] if dali_is_installed() else []
    for kind in (*kinds, "portable"):
        loader = Loader(split, device, kind)
        yield f"loader, {kind}, streamed", rate(again(loader), batch, seconds, wait)
    started = time.perf_counter()
    kept = Loader(split, device, "auto", "auto")
    next(again(kept))
    wait()
    yield "filling the store", split.samples / (time.perf_counter() - started)
    yield f"loader, kept on {kept.place}", rate(again(kept), batch, seconds, wait)
    yield "loader and augmentation", rate(shown(kept), batch, seconds, wait)
    one = next(shown(kept))
    ceiling = 0.0
    for captured in (False, True) if device.type == "cuda" else (False,):
        torch.manual_seed(0)
        step = TrainStep(to_channels_last(UNet(), device), 5e-3)
        step._may_capture = captured
        steps = (step(*one, 1.0, 0.998) for _ in itertools.count())
        ceiling = rate(steps, batch, seconds, wait)
        yield f"step alone, {'graph' if captured else 'eager'}", ceiling
    steps = (step(*inputs, 1.0, 0.998) for inputs in shown(kept))
    both = rate(steps, batch, seconds, wait)
    yield "all of it", both
    yield "share of the ceiling (step alone), percent", 100 * both / ceiling


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else drawn faces.")
@click.option("--device", default="cuda")
@click.option("--samples", default=TRAIN_SAMPLES, help="Training samples.")
@click.option("--val", default=VAL_SAMPLES, help="Validation samples.")
@click.option("--batch", "batches", multiple=True, type=int, default=(64, 256, 1024))
@click.option("--epochs", default=EPOCHS, help="Epochs of real training.")
@click.option("--seconds", default=5.0, help="Length of each measurement.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"))
def main(
    data: Path | None, device: str, samples: int, val: int, batches: tuple[int, ...], epochs: int,
    seconds: float, out: Path,
) -> None:  # fmt: skip
    """Measure the GPU path and write gpu.md and gpu.json."""
    from preprocess.runtime import tune_process

    tune_process()
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        click.echo("Error: no CUDA device. `--device cpu --samples 256` tries the script", err=True)
        sys.exit(2)
    from train.config import TrainConfig
    from train.device import resolve_device
    from train.loop import fit

    where = resolve_device(device)
    wait = torch.cuda.synchronize if where.type == "cuda" else (lambda: None)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "facts": contest.facts(PACKAGES)}
    lines = ["# The GPU path", "", f"`tests/bench/gpu.py` on: {name}", ""]
    lines += [f"- {key}: {fact}" for key, fact in found["facts"].items()]
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as place:
        root = build_pack(Path(place), data, {"train": samples, "val": val})
        rows, best = [], 0.0
        for batch in batches:
            for what, speed in parts(root, where, batch, seconds, wait):
                click.echo(f"batch {batch}, {what}: {speed:,.0f}", err=True)
                rows.append((str(batch), what, f"{speed:,.0f}"))
                if what == "all of it" and speed > best:
                    best, chosen = speed, batch
        found["parts"] = rows
        lines += ["", "Images a second:", "", contest.markdown(("batch", "", "images/s"), rows)]
        started = time.perf_counter()
        history = fit(TrainConfig(
            root, Path(place) / "run", epochs=epochs, batch=chosen, device=device,
        )).history  # fmt: skip
        total = time.perf_counter() - started
        found["history"] = [vars(record) for record in history]
        warm = [record.seconds for record in history[1:]] or [history[0].seconds]
        rest = total - sum(record.seconds for record in history)
        estimate = history[0].seconds + (EPOCHS - 1) * max(warm) + rest / epochs * EPOCHS
        passed, spent = None, 0.0
        for record in history:
            spent += record.seconds
            passed = passed or (spent if record.val_f1 >= RECIPE_F1 else None)
        rows = [
            ("batch", str(chosen)),
            ("first epoch (cold: decoding, kernels), s", f"{history[0].seconds:.2f}"),
            ("slowest warm epoch, s", f"{max(warm):.2f}"),
            ("all else (start, evaluation, files), s", f"{rest:.1f}"),
            ("best val F1", f"{max(record.val_f1 for record in history):.4f}"),
            (f"seconds to val F1 {RECIPE_F1}", f"{passed:.1f}" if passed else "not reached"),
            (f"{EPOCHS} epochs of {samples:,} and {val:,}, from the slowest, s", f"{estimate:.1f}"),
        ]  # fmt: skip
        lines += ["", f"`train.loop.fit`, {epochs} epochs:", "",
                  contest.markdown(("", ""), rows), ""]  # fmt: skip
        if where.type == "cuda" and (samples, val) == (TRAIN_SAMPLES, VAL_SAMPLES):
            lines += [contest.ceiling("25 epochs", estimate, BAR_SECONDS, " s")]
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.md").write_text("\n".join(lines) + "\n")
    (out / "gpu.json").write_text(json.dumps(found, indent=1))
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()

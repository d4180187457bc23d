"""The whole path on a GPU: loader alone, model alone, both, utilisation.

    make bench-gpu [DATA=path/to/CelebAMask-HQ]

Bar: 25 epochs of all of CelebAMask-HQ (24,183 training images at 256 x 256, 605 k samples) in
under 60 seconds on one H100-class GPU: 10,077 images/s end to end, with start-up and evaluation in
the estimate. Without DATA, faces are drawn, and shown again under other names until there are as
many. Everything runs with `--device cpu` too, in small, to try the script where there is no GPU.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import contest

TRAIN_SAMPLES, EPOCHS, BAR_SECONDS = 24_183, 25, 60.0
PACKAGES = ("torch", "nvidia-dali-cuda120", "numpy")


def build_pack(folder: Path, data: Path | None, samples: int) -> Path:
    """Pack photographs, and repeat the shards' samples under other keys up to `samples`."""
    from preprocess.manifest import Manifest, PackSettings
    from preprocess.pack import PackConfig, pack
    from preprocess.sample import SampleConfig, write_sample
    from preprocess.shards import read_samples, write_shard

    source = data
    if source is None:
        source = folder / "drawn"
        write_sample(source, SampleConfig(min(samples, 1000) * 5 // 4, 0, 256, 256))
    root = folder / "pack"
    pack(PackConfig(source, root, PackSettings(size=256)))
    manifest = Manifest.load(root)
    train = manifest.split("train")
    originals = [sample for shard in train.shards for sample in read_samples(root / shard.name)]
    if len(originals) >= samples:
        return root
    shards = []
    for first in range(0, samples, 1024):
        numbers = range(first, min(samples, first + 1024))
        again = (
            (f"{number:06d}-{originals[number % len(originals)][0]}",
             originals[number % len(originals)][1])
            for number in numbers
        )  # fmt: skip
        shards.append(write_shard(root, f"train/eyes-{first // 1024:06d}.tar", again))
    split = replace(train, samples=samples, shards=tuple(shards))
    replace(manifest, splits=manifest.splits | {"train": split}).save(root)
    return root


def rate(batches: Iterator[Any], seconds: float, wait: Callable[[], None]) -> float:
    """Images a second over about so many seconds, after five batches."""
    count, started = 0, 0.0
    for number, batch in enumerate(batches):
        if number == 5:
            wait()
            started = time.perf_counter()
        if number > 5:
            count += len(batch.keys)
            if time.perf_counter() - started > seconds:
                break
    wait()
    return count / (time.perf_counter() - started)


@contextmanager
def utilisation(busy: list[float]) -> Iterator[None]:
    """Sample the GPU's utilisation in percent while a block runs."""
    if not shutil.which("nvidia-smi"):
        yield
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.5):
            answer = subprocess.run(query, capture_output=True, text=True).stdout.split()
            if answer:
                busy.append(float(answer[0]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def loaders(root: Path, device: Any, batch: int, seconds: float, wait: Callable[[], None]) -> Any:
    """Measure the loader alone."""
    from train.batch import LoaderConfig
    from train.cache import SampleCache
    from train.loader import decoding_threads, open_loader, read_spec
    from train.order import SplitOrder

    from train.config import AugmentConfig, Crop, ModelConfig

    spec = read_spec(root)
    order = SplitOrder.read(root, "train", batch, shuffle=True)
    window = Crop().window(spec.size, ModelConfig().stride)
    plain = LoaderConfig(order, spec, AugmentConfig.off(), device, decoding_threads(None))
    recipe = replace(plain, augment=AugmentConfig(), window=window)
    shares = (0.0, 0.5, 0.65, 0.8, 0.9, 1.0) if device.type == "cuda" else (0.9,)
    for share in shares:
        loader = open_loader(replace(recipe, hardware_share=share))
        name = f"recipe's augmentation, hardware decoder's share {share:g}"
        yield name, rate(loader.epoch(0), seconds, wait)
    yield "no augmentation", rate(open_loader(plain).epoch(0), seconds, wait)
    cached = open_loader(replace(recipe, cache=SampleCache(order.samples, spec.size)))
    for _ in cached.epoch(0):
        pass
    yield "recipe's augmentation, decoded samples in memory", rate(cached.epoch(1), seconds, wait)


def models(device: Any, batches: list[int], seconds: float, wait: Callable[[], None]) -> Any:
    """Measure training steps alone, on one batch that is there already."""
    import copy

    import torch
    from train.schedule import update_average

    from train.config import Crop, ModelConfig
    from train.loop import amp_dtype
    from train.loss import bce_dice
    from train.model import UNet, to_channels_last
    from train.optimizer import build_optimizers

    window = Crop().window(256, ModelConfig().stride)
    amp_type = amp_dtype("auto", device)
    modes = {"eager": None, "compiled": "default"}
    if device.type == "cuda":
        modes["compiled, CUDA graphs"] = "reduce-overhead"
    for batch in batches:
        shape = (batch, 3, window.height, window.width)
        images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
        masks = (images[:, :1] > 2).float()
        for name, mode in modes.items():
            torch.manual_seed(0)
            model = to_channels_last(UNet(), device)
            average = copy.deepcopy(model).eval()
            trained = torch.compile(model, mode=mode) if mode else model
            optimizers = build_optimizers(model, muon_lr=0.02, lr=5e-3, weight_decay=1e-2)

            def step(
                trained: Any = trained, model: Any = model, average: Any = average,
                optimizers: Any = optimizers, images: Any = images, masks: Any = masks,
            ) -> None:  # fmt: skip
                with torch.autocast(device.type, amp_type) if amp_type else nullcontext():
                    loss = bce_dice(trained(images), masks)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer in optimizers:
                    optimizer.step()
                model.zero_grad(set_to_none=True)
                update_average(average, model, 0.998)

            for _ in range(5):
                step()
            wait()
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                step()
                steps += 1
                if steps % 10 == 0:
                    wait()
            wait()
            yield f"batch {batch}, {name}", batch * steps / (time.perf_counter() - started)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else drawn faces.")
@click.option("--device", default="cuda")
@click.option("--samples", default=TRAIN_SAMPLES, help="Training samples.")
@click.option("--batch", "batches", multiple=True, type=int, default=(64, 256, 1024))
@click.option("--epochs", default=3, help="Epochs of real training; the bar is extrapolated.")
@click.option("--seconds", default=5.0, help="Length of each measurement.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"))
def main(
    data: Path | None, device: str, samples: int, batches: tuple[int, ...], epochs: int,
    seconds: float, out: Path,
) -> None:  # fmt: skip
    """Measure the GPU path and write gpu.md."""
    from preprocess.tuning import tune_process

    tune_process()
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        click.echo("Error: no CUDA device. `--device cpu --samples 256` tries the script", err=True)
        sys.exit(2)
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    wait = torch.cuda.synchronize if where.type == "cuda" else (lambda: None)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    from train.config import TrainConfig
    from train.loop import fit

    lines = ["# The GPU path", "", f"`tests/bench/gpu.py` on: {name}", ""]
    lines += [f"- {key}: {fact}" for key, fact in contest.facts(PACKAGES).items()]
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as place:
        root = build_pack(Path(place), data, samples)
        best = max(batches)
        rows = []
        for what, speed in loaders(root, where, best, seconds, wait):
            rows.append((what, f"{speed:,.0f}"))
            click.echo(f"loader, {what}: {speed:,.0f} images/s", err=True)
        lines += ["", f"Loader alone, batch {best}:", "", contest.markdown(("", "images/s"), rows)]
        rows = []
        for what, speed in models(where, list(batches), seconds, wait):
            rows.append((what, f"{speed:,.0f}"))
            click.echo(f"model, {what}: {speed:,.0f} images/s", err=True)
        lines += ["", "Training steps alone (crops of the recipe):", "",
                  contest.markdown(("", "images/s"), rows)]  # fmt: skip
        rows = []
        fastest = (0.0, 0.0)
        for batch in batches:
            for compiled in (False, True):
                config = TrainConfig(
                    root, Path(place) / f"run-{batch}-{compiled}", epochs=epochs, batch=batch,
                    device=device, compile=compiled, log_every=50, warmup=0.1,
                )  # fmt: skip
                busy: list[float] = []
                started = time.perf_counter()
                with utilisation(busy):
                    result = fit(config)
                total = time.perf_counter() - started
                later = result.history[1:] or result.history
                speed = statistics.median(record.images_per_second for record in later)
                waiting = statistics.median(record.waiting for record in later)
                first = result.history[0].seconds
                later_seconds = statistics.median(record.seconds for record in later)
                rest = (total - sum(record.seconds for record in result.history)) / epochs
                estimate = first + (EPOCHS - 1) * later_seconds + EPOCHS * rest
                fastest = max(fastest, (speed, -estimate))
                rows.append((
                    f"batch {batch}{', compiled' if compiled else ''}", f"{speed:,.0f}",
                    f"{waiting:.1%}", f"{statistics.mean(busy):.0f} %" if busy else "-",
                    f"{result.best.val_f1:.4f}", f"{estimate:.0f} s",
                ))  # fmt: skip
                click.echo(f"both, {rows[-1]}", err=True)
        head = ("", "images/s", "waiting", "utilisation", f"val F1, {epochs} epochs",
                f"{EPOCHS} epochs of {samples:,}")  # fmt: skip
        lines += ["", "Both (`train.loop.fit`, evaluation and start-up in the estimate):", "",
                  contest.markdown(head, rows), ""]  # fmt: skip
        if where.type == "cuda" and samples == TRAIN_SAMPLES:
            estimate = -fastest[1]
            verdict = "reached" if estimate < BAR_SECONDS else "NOT REACHED"
            lines += [f"bar: under {BAR_SECONDS:.0f} s: {estimate:.0f} s, {verdict}"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()

"""The training loop: one function that reads from top to bottom."""

from __future__ import annotations

import copy
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from preprocess.errors import InputError
from preprocess.manifest import Manifest
from train.batch import LoaderConfig
from train.cache import SampleCache, open_cache
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file
from train.config import AugmentConfig, Stage, TrainConfig
from train.distributed import Processes, distribute, join_processes
from train.evaluate import calibrate, evaluate
from train.loader import (
    Loader,
    decoding_threads,
    open_loader,
    processes_here,
    read_spec,
    resolve_loader,
)
from train.loss import bce_dice
from train.model import UNet, flop_count, parameter_count, to_channels_last
from train.optimizer import build_optimizers
from train.order import SplitOrder
from train.report import plot_history, save_predictions
from train.run_folder import (
    HISTORY_PLOT,
    PREDICTIONS_PLOT,
    EpochRecord,
    check_writable,
    history_from,
    latest_checkpoint,
    prune_checkpoints,
    set_aside,
    write_history,
)
from train.schedule import ema_decay, learning_rate, update_average

_PLOT_SECONDS = 20.0  # redraw the history at most so often


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run."""

    model_path: Path
    best: EpochRecord
    history: tuple[EpochRecord, ...]


def fit(config: TrainConfig, *, resume: bool = False) -> TrainResult:
    """Train a model; alone, or as one of the processes that `torchrun` started.

    Parameters
    ----------
    config
        The run.
    resume
        Go on from the newest checkpoint in `config.output`, if there is one. Without it, an
        earlier run in that folder is moved to ``previous-NNN/``.

    Raises
    ------
    InputError
        Where shards, settings or device do not fit, or the loss is no longer finite.
    """
    with join_processes(config.device) as (processes, device):
        return _fit(config, resume, processes, device)


def _fit(
    config: TrainConfig, resume: bool, processes: Processes, device: torch.device
) -> TrainResult:
    # Set up: data.
    spec = read_spec(config.shards)
    if spec.size % config.model.stride:
        problem = f"holds {spec.size}-pixel squares; this network needs a multiple of"
        raise InputError(config.shards, f"{problem} {config.model.stride}", "Change --depth")
    splits = Manifest.load(config.shards).splits
    cache = None
    if config.epochs > 1:
        samples = splits["train"].samples + splits["val"].samples
        cache = open_cache(config.cache, samples, spec.size, processes_here())
    stages = [config.stage(epoch) for epoch in range(config.epochs)]
    loaders = {
        stage: _open(config, stage, "train", processes, device, cache)
        for stage in dict.fromkeys(stages)
    }
    loader = loaders[stages[0]]
    has_val = splits["val"].samples > 0
    val_loader = _open(config, None, "val" if has_val else "train", processes, device, cache)
    steps, warmup = config.epochs * loader.steps, round(config.warmup * loader.steps)

    # Set up: model, averaged weights, optimiser.
    torch.manual_seed(config.seed)
    model = to_channels_last(_first_model(config), device)
    average = copy.deepcopy(model).eval()
    trained = distribute(model, processes, device)
    if config.compile:
        trained = torch.compile(trained)  # type: ignore[assignment]
    optimizers = build_optimizers(
        model, muon_lr=config.muon_lr, lr=config.lr, weight_decay=config.weight_decay
    )
    amp_type = amp_dtype(config.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_type is torch.float16)

    # Set up: output folder, and where an earlier run stopped.
    check_writable(config.output)
    writer_type = _tensorboard_writer() if config.tensorboard else None
    history: list[EpochRecord] = []
    decides = config.decides() | {
        "amp": str(amp_type),
        "data": Manifest.load(config.shards).digest,
    }
    checkpoint = latest_checkpoint(config.output, decides) if resume else None
    if checkpoint:
        state = checkpoint.training
        model.load_state_dict(state["model"])
        average.load_state_dict(checkpoint.weights)
        for optimizer, content in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)
        scaler.load_state_dict(state["scaler"])
        history = history_from(state["history"])
    elif processes.is_first and (aside := set_aside(config.output)):
        _say(f"an earlier run was moved to {aside}")
    if processes.is_first:
        amp = str(amp_type).removeprefix("torch.") if amp_type else "float32"
        _say(
            f"{parameter_count(model) / 1e6:.2f} M parameters, "
            f"{flop_count(UNet(config.model), spec.size) / 1e9:.2f} GFLOP at {spec.size}, {amp}, "
            f"{device}, {processes.world} process(es), {resolve_loader(config.loader)} loader, "
            f"{loader.samples} train and {val_loader.samples if has_val else 'no'} val samples "
            f"({'kept decoded' if cache else 'decoded anew each epoch'}), "
            f"epochs {len(history)} to {config.epochs}"
        )
    writer = None
    if writer_type and processes.is_first:
        writer = writer_type(config.output / "tensorboard")
    plotted = -math.inf

    for epoch in range(len(history), config.epochs):
        trained.train()
        started, waited, logged = time.perf_counter(), 0.0, math.nan
        total = torch.zeros((), device=device)
        quiet = None if processes.is_first else True
        with tqdm(total=loader.steps, unit="batch", desc=f"epoch {epoch + 1}/{config.epochs}",
                  disable=quiet, leave=False) as bar:  # fmt: skip
            batches = loaders[stages[epoch]].epoch(epoch)
            for step in range(loader.steps):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked

                rate = learning_rate(epoch * loader.steps + step, steps, warmup)
                for group in (g for optimizer in optimizers for g in optimizer.param_groups):
                    group["lr"] = rate * group["peak"]
                context = torch.autocast(device.type, amp_type) if amp_type else nullcontext()
                with context:
                    loss = bce_dice(trained(batch.images), batch.masks)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                if config.clip:
                    for optimizer in optimizers:
                        scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                for optimizer in optimizers:
                    scaler.step(optimizer)
                scaler.update()
                model.zero_grad(set_to_none=True)
                update_average(average, model, ema_decay(epoch * loader.steps + step, config.ema))
                total += loss.detach()

                bar.update()
                if (step + 1) % config.log_every == 0 or step + 1 == loader.steps:
                    # The only place where the host waits; the same figure on all processes, so
                    # that they stop together.
                    logged = float(processes.mean(total.clone())) / (step + 1)
                    if not math.isfinite(logged):
                        problem = f"loss is {logged} in epoch {epoch + 1}, step {step + 1}"
                        raise InputError("training", problem, "Lower --lr, or try --amp off")
                    seconds = time.perf_counter() - started
                    speed = (step + 1) * config.batch / seconds
                    bar.set_postfix(
                        loss=f"{logged:.4f}", img_s=f"{speed:.1f}", wait=f"{waited / seconds:.1%}"
                    )
            for _ in batches:  # let the loader end its epoch
                pass
        seconds = time.perf_counter() - started

        # Evaluate the averaged weights.
        evaluation = evaluate(average, val_loader, processes=processes)
        figures = evaluation.metrics
        history.append(EpochRecord(
            epoch=epoch + 1, loss=float(processes.mean(total)) / loader.steps,
            val_loss=evaluation.loss, val_f1=figures.f1, val_iou=figures.iou,
            val_mean_iou=figures.mean_iou, lr=rate * config.lr, seconds=seconds,
            images_per_second=loader.steps * config.batch / seconds, waiting=waited / seconds,
        ))  # fmt: skip

        # Save.
        if processes.is_first:
            best = _best(history)
            saved = Checkpoint(
                config.model, spec, average.state_dict(), metrics=figures.to_dict(),
                epoch=epoch + 1,
                training={
                    "decides": decides, "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "scaler": scaler.state_dict(),
                    "history": [asdict(record) for record in history],
                },
            )  # fmt: skip
            # The training checkpoint comes last: a run that is killed before it repeats the epoch.
            if best.epoch == epoch + 1:
                replace(saved, training={}).save(config.output / MODEL_FILE)
            write_history(config.output, history)
            saved.save(epoch_file(config.output, epoch + 1))
            prune_checkpoints(config.output, config.keep, best.epoch)
            _report(history[-1], best, config.epochs, writer)
            if time.perf_counter() - plotted > _PLOT_SECONDS or epoch + 1 == config.epochs:
                plot_history(history, config.output / HISTORY_PLOT)
                plotted = time.perf_counter()

    best = _best(history)
    if processes.is_first and len(history) == config.epochs:
        finished = Checkpoint.load(config.output / MODEL_FILE, device)
        alone = _open(config, None, "val" if has_val else "train", Processes(), device)
        if has_val and not finished.calibration:
            finished = calibrate(finished, alone, device)
            finished.save(config.output / MODEL_FILE)
        save_predictions(
            finished.build().to(device), alone, finished, config.output / PREDICTIONS_PLOT
        )
    if writer:
        writer.close()
    return TrainResult(config.output / MODEL_FILE, best, tuple(history))


def _open(
    config: TrainConfig,
    stage: Stage | None,
    split: str,
    processes: Processes,
    device: torch.device,
    cache: SampleCache | None = None,
) -> Loader:
    """Open a split: for a stage of training or, without one, for evaluation."""
    spec = read_spec(config.shards)
    order = SplitOrder.read(
        config.shards, split, config.batch, shuffle=stage is not None, seed=config.seed,
        rank=processes.rank, world=processes.world,
    )  # fmt: skip
    augment, window = AugmentConfig.off(), None
    if stage:
        augment = stage.augment
        window = stage.crop.window(spec.size, config.model.stride) if stage.crop else None
    threads = decoding_threads(config.threads)
    loader = LoaderConfig(order, spec, augment, device, threads, window, cache)
    return open_loader(loader, config.loader)


def _first_model(config: TrainConfig) -> UNet:
    """Build the network that training begins with: new, or with the weights of another."""
    if config.init is None:
        return UNet(config.model)
    start = Checkpoint.load(config.init)
    if start.model != config.model:
        problem = f"has the shape {start.model}, this run {config.model}"
        raise InputError(config.init, problem, "Give its --width, --depth, --stem and --detail")
    model = start.build().train()
    model.calibration.copy_(UNet(config.model).calibration)  # that was for its own answers
    return model


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Choose the type of automatic mixed precision; None computes in float32.

    auto: bfloat16 where the GPU has it, else float16 with a gradient scaler; float32 on a CPU
    (bfloat16 there is ten times slower without AMX).
    """
    if amp == "auto":
        if device.type == "cpu":
            return None
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _best(history: list[EpochRecord]) -> EpochRecord:
    return max(history, key=lambda record: (record.val_f1, -record.epoch))


def _report(record: EpochRecord, best: EpochRecord, epochs: int, writer: Any) -> None:
    _say(
        f"epoch {record.epoch}/{epochs}: loss {record.loss:.4f}, val F1 {record.val_f1:.4f} "
        f"(best {best.val_f1:.4f}, epoch {best.epoch}), IoU {record.val_iou:.4f}, "
        f"{record.images_per_second:.1f} images/s, {record.waiting:.1%} waiting for data"
    )
    if writer:
        for name, value in asdict(record).items():
            writer.add_scalar(name, value, record.epoch)


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _tensorboard_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        remedy = "pip install tensorboard, or leave the flag out"
        raise InputError("--tensorboard", "tensorboard is not installed", remedy) from None
    return SummaryWriter

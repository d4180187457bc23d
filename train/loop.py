"""The training loop: one function that reads from top to bottom."""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from preprocess.errors import InputError
from preprocess.files import from_fields, locked, remove_unfinished, write_json
from preprocess.manifest import Manifest, SplitRecord
from preprocess.storage import Place
from train.augment import AugmentedEpoch, needs_eyes
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, source_of_this_code
from train.config import TrainConfig
from train.data import Loader, resolve_loader
from train.device import amp_dtype, send
from train.distributed import Processes, join_processes
from train.evaluate import calibrate, evaluate, in_order
from train.model import InputSpec, UNet, flop_count, parameter_count, to_channels_last
from train.optimizer import average_decay, learning_rate
from train.report import plot_history, save_close_ups
from train.run_folder import (
    HISTORY_PLOT,
    NON_FINITE_FILE,
    PREDICTIONS_PLOT,
    SETTINGS_FILE,
    EpochRecord,
    latest_checkpoint,
    restore_best,
    save_epoch,
    set_aside,
)
from train.split import Rows, Split
from train.step import TrainStep, to_host

_WARMUP = 1.0  # epochs of rising rate: Muon's first steps are as long as any
_LOG_STEPS = 10  # between looks at the loss, the only places where the host waits
_DRAWN = 12  # samples of val in the picture at the end
_PLOT_SECONDS = 20.0  # redraw the history at most so often


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run."""

    model_path: Place  # the best epoch's weights
    best: EpochRecord
    history: tuple[EpochRecord, ...]
    judged_by: str  # the split of the figures: val or, if it is empty, train
    warning: str = ""  # why nothing may have been learnt


def fit(config: TrainConfig, *, resume: bool = False) -> TrainResult:
    """Train a model; alone, or as one of the processes that `torchrun` started.

    With `resume` it goes on from the newest checkpoint in `config.output`, if there is one; to more
    epochs, if `config` has more. Without, an earlier run in that folder is moved to
    ``previous-NNN/``.

    Raises
    ------
    InputError
        If shards, settings or device do not fit, or the loss is no longer finite.
    """
    try:
        with join_processes(config.device) as (processes, device), ExitStack() as stack:
            return _fit(config, resume, processes, device, stack)
    except OSError as error:
        remedy = "Check the path, its permissions and the free space; then go on with --resume"
        where = error.filename or config.output
        raise InputError(where, error.strerror or str(error), remedy) from error


def _fit(
    config: TrainConfig, resume: bool, processes: Processes, device: torch.device, stack: ExitStack
) -> TrainResult:
    # Set up: data.
    manifests, verify = [Manifest.load(root) for root in config.packs], config.verify != "off"
    train = Split.open_all(config.packs, "train", verify, config.weights)
    if train.size % config.model.stride:
        problem = f"holds {train.size}-pixel squares"
        remedy = f"This network needs a multiple of {config.model.stride}: pack with another --size"
        raise InputError(config.packs[0], problem, remedy)
    steps = len(train.shuffled(config.batch, config.seed, 0))
    mine = processes.share(config.batch, config.accumulate)
    if needs_eyes(config.augment):
        train.eyes(np.zeros(1, np.int32))  # a pack without eyes is refused before a run begins
    cache, quiet = config.cache if config.epochs > 1 else "off", not processes.is_first
    loader = judging = Loader(train, device, config.loader, cache, quiet=quiet)
    judged = [root for root, pack in zip(config.packs, manifests, strict=True)
              if pack.splits["val"].samples]  # fmt: skip
    judge = "val" if judged else "train"
    if judged:
        val = Split.open_all(judged, "val", verify)
        judging = Loader(val, device, config.loader, cache, quiet=quiet)
    processes.check(judging.split.samples, judge)

    # Set up: network, optimisers, averaged weights.
    torch.manual_seed(config.seed)
    spec = InputSpec(train.size)
    if processes.is_first:
        stack.enter_context(locked(config.output))
        remove_unfinished(config.output)
    history: list[EpochRecord] = []
    decides = config.decides() | {"amp": str(amp_dtype(config.amp, device)),
                                  "data": " ".join(each.digest for each in manifests)}  # fmt: skip
    checkpoint = latest_checkpoint(config.output, decides) if resume else None
    model = _first_model(config, spec, device, begin=checkpoint is None)
    several = len(config.packs) > 1
    step = TrainStep(model, config.lr, config.amp, processes, len(config.packs), config.accumulate)

    # Set up: where an earlier run stopped.
    if checkpoint:
        history = _go_on(step, checkpoint, config.output)
        if processes.is_first:
            restore_best(config.output, _best(history).epoch)
    elif processes.is_first and (aside := set_aside(config.output)):
        _say(f"an earlier run was moved to {aside}")
    if not processes.have_the_same((decides, len(history))):
        problem = "is not one run: settings, packs or last checkpoint differ among processes"
        remedy = "Give all of them the same options, and folders that their machines share"
        raise InputError(config.output, problem, remedy)
    if processes.is_first:
        settings = {"settings": asdict(config), "source": source_of_this_code()}
        write_json(config.output / SETTINGS_FILE, settings)
        amp = str(step.dtype).removeprefix("torch.") if step.dtype else "float32"
        kept = f"kept decoded on {loader.place}" if loader.place else "decoded anew each epoch"
        _say(f"{_describe(config, spec.size)}, {amp}, {device}, {processes.world} process(es), "
             f"{train.samples} train and {val.samples if judged else 'no'} val samples ({kept}), "
             f"epochs {len(history)} to {config.epochs}")  # fmt: skip
    writer, saving, plotted = stack.enter_context(ThreadPoolExecutor(1)), None, -math.inf

    for epoch in range(begun := len(history), config.epochs):
        step.model.train()
        shown = AugmentedEpoch(config, train, epoch, mine)
        batches = loader.batches(shown.order)
        started, waited, total = time.perf_counter(), 0.0, torch.zeros((), device=device)
        recent: list[tuple[Rows, Tensor]] = []
        with tqdm(total=steps, unit="batch", desc=f"epoch {epoch + 1}/{config.epochs}",
                  disable=quiet or None, leave=False) as bar:  # fmt: skip
            for number in range(steps):
                asked = time.perf_counter()
                batch = next(batches)
                if number == 0 and epoch == begun:  # each has decoded its samples, at its own pace
                    processes.meet()
                waited += time.perf_counter() - asked
                done = epoch * steps + number
                rate = learning_rate(done, config.epochs * steps, round(_WARMUP * steps))
                rows = batch.rows
                pack = send(torch.from_numpy(train.pack_of(rows)), device) if several else None
                lost = step(*shown(batch, number), rate, average_decay(done), pack)
                total += lost
                recent.append((rows, lost.clone()))
                bar.update()
                if (number + 1) % _LOG_STEPS == 0 or number + 1 == steps:
                    # The same figure on all processes, so that they stop together.
                    loss = float(processes.mean(total.clone())) / (number + 1)
                    if not math.isfinite(loss):
                        place = {"epoch": epoch + 1, "loss": loss}
                        raise _not_finite(place, recent, train, config.output, processes)
                    recent.clear()
                    seconds = time.perf_counter() - started
                    speed = (number + 1) * config.batch / seconds
                    bar.set_postfix(
                        loss=f"{loss:.4f}", img_s=f"{speed:.1f}", wait=f"{waited / seconds:.1%}"
                    )
            for _ in batches:  # let the loader end its epoch
                pass

        # Evaluate the averaged weights.
        processes.agree(step.average)
        evaluation = evaluate(
            step.average, in_order(judging, processes), amp=config.amp, processes=processes
        )
        by_pack = evaluation.by_pack(judging.split)
        f1, iou, mean_iou = np.mean([(m.f1, m.iou, m.mean_iou) for m in by_pack.values()], axis=0)
        history.append(EpochRecord(
            epoch=epoch + 1, loss=loss, val_loss=evaluation.loss, val_f1=float(f1),
            val_iou=float(iou), val_mean_iou=float(mean_iou), lr=rate * config.lr,
            seconds=seconds, images_per_second=speed, waiting=waited / seconds,
            pack_f1={name: metrics.f1 for name, metrics in by_pack.items()},
        ))  # fmt: skip

        # Save, beside the next epoch.
        best = _best(history)
        if processes.is_first:
            _say(history[-1].line(config.epochs, judge, best))
            training = step.state_dict() | {
                "decides": decides, "history": [asdict(record) for record in history]
            }  # fmt: skip
            saved = Checkpoint(
                config.model, spec, to_host(step.average.state_dict()),
                metrics=asdict(evaluation.metrics), epoch=epoch + 1, training=training,
                data=[asdict(pack) for pack in train.packs],
            )  # fmt: skip
            plot = time.perf_counter() - plotted > _PLOT_SECONDS
            plotted = time.perf_counter() if plot else plotted
            if saving:
                saving.result()  # raises what went wrong
            saving = writer.submit(_save, config.output, saved, tuple(history), best.epoch, plot)
    if saving:
        saving.result()

    best, model_path = _best(history), config.output / MODEL_FILE
    if processes.is_first and len(history) >= config.epochs:
        finished = Checkpoint.load(model_path)
        if judge == "val" and not finished.calibration:
            finished = calibrate(finished, judging, config.amp)
            finished.save(model_path)
        plot_history(history, config.output / HISTORY_PLOT)
        first = np.arange(min(_DRAWN, judging.split.samples), dtype=np.int32)
        drawn, path = finished.build().to(device), config.output / PREDICTIONS_PLOT
        save_close_ups(drawn, judging, first, finished.threshold, path)
    warning = _warning(best, judge, config, [each.splits["train"] for each in manifests])
    return TrainResult(model_path, best, tuple(history), judge, warning)


def _save(
    output: Place, saved: Checkpoint, history: tuple[EpochRecord, ...], best: int, plot: bool
) -> None:
    save_epoch(output, saved, history, best)
    if plot:
        plot_history(history, output / HISTORY_PLOT)


def _go_on(step: TrainStep, checkpoint: Checkpoint, output: Place) -> list[EpochRecord]:
    """Bring a run to where it stopped; return its history."""
    try:
        step.load_state_dict(checkpoint.training, checkpoint.weights)
        return [from_fields(EpochRecord, row) for row in checkpoint.training["history"]]
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        problem = f"holds no state to go on from ({str(error)[:120]!r})"
        path = epoch_file(output, checkpoint.epoch)
        raise InputError(path, problem, "Train without --resume") from None


def _describe(config: TrainConfig, size: int) -> str:
    model = UNet(config.model)
    return (
        f"{parameter_count(model) / 1e6:.2f} M parameters, "
        f"{flop_count(model, size) / 1e9:.2f} GFLOP at {size}, "
        f"{resolve_loader(config.loader)} loader"
    )


def _first_model(config: TrainConfig, spec: InputSpec, device: torch.device, begin: bool) -> UNet:
    """Build the network that training begins with: new, or with the weights of another."""
    model = UNet(config.model, spec)
    if config.init and begin:
        start = Checkpoint.load(config.init)
        if start.model != config.model:
            problem = f"has the shape {start.model}, this run {config.model}"
            raise InputError(config.init, problem, "Give weights of this shape")
        model = start.network()
    return to_channels_last(model, device)


def _not_finite(
    place: dict[str, float], recent: list[tuple[Rows, Tensor]], train: Split, output: Place,
    processes: Processes,
) -> InputError:  # fmt: skip
    """Say which samples the first step without a finite loss was taken on, in a file too."""
    losses = processes.gather(torch.stack([loss for _, loss in recent])[None])
    first = int((~losses.isfinite()).any(dim=0).int().argmax())
    keys = train.keys(processes.gather(torch.from_numpy(recent[first][0])).numpy())
    if processes.is_first:
        write_json(output / NON_FINITE_FILE, place | {"samples": keys})
    some = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
    problem = f"loss is {place['loss']} in epoch {place['epoch']}, first on the samples {some}"
    remedy = f"Lower --lr, try --amp off, or look at them ({output / NON_FINITE_FILE} has all)"
    return InputError("training", problem, remedy)


def _best(history: list[EpochRecord]) -> EpochRecord:
    return max(history, key=lambda record: (record.val_f1, -record.epoch))


def _warning(best: EpochRecord, judge: str, config: TrainConfig, train: list[SplitRecord]) -> str:
    """Say why a run may have learnt nothing; empty if it has learnt something."""
    if best.val_f1 > 0:
        return ""
    if not any(each.eyes.two + each.eyes.one + each.eyes.merged for each in train):
        cause = "no sample of train shows an eye; look at `python -m preprocess show`"
    else:
        steps = best.epoch * (sum(each.samples for each in train) // config.batch)
        cause = f"{steps} steps may be too few (--epochs), or --lr {config.lr:g} too high"
    return f"{judge} F1 is 0: {cause}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)

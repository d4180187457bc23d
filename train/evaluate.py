"""Evaluate a model on a split: every sample counted once."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from preprocess.errors import InputError
from preprocess.storage import Place
from train.augment import plain
from train.calibration import LogitHistogram, logit_counts
from train.checkpoint import Checkpoint
from train.data import Batch, Loader
from train.device import amp_dtype, autocast
from train.distributed import Processes, join_processes
from train.loss import bce_dice
from train.metrics import Metrics, image_iou, metrics_of, pixel_counts
from train.split import Rows, Split

_BATCH = {"cuda": 256}  # large where it costs nothing; in a CPU's cache elsewhere
_CPU_BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of samples."""

    rows: Rows  # N, the samples' numbers in their split
    counts: Tensor  # N x 4, see `pixel_counts`
    loss: float  # mean
    images_per_second: float
    histogram: LogitHistogram  # all pixels by logit

    @cached_property
    def metrics(self) -> Metrics:
        """Figures of all samples."""
        return metrics_of(self.counts)

    @cached_property
    def iou(self) -> dict[int, float]:
        """Each sample's IoU, by number."""
        return dict(zip(self.rows.tolist(), image_iou(self.counts).tolist(), strict=True))

    def by_pack(self, split: Split) -> dict[str, Metrics]:
        """Return the figures of each pack that has samples here."""
        packs = split.pack_of(self.rows)
        return {
            pack.name: metrics_of(self.counts[torch.from_numpy(packs == number)])
            for number, pack in enumerate(split.packs)
            if (packs == number).any()
        }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    threshold: float = 0.5,
    amp: str = "off",
    processes: Processes | None = None,
) -> Evaluation:
    """Run a model, in evaluation mode, over whole pictures on its device.

    The device is waited for once, at the end. `processes` share the work; counts are joined, so
    all get the same figures. For `amp` see `train.device.amp_dtype`.
    """
    processes = processes or Processes()
    counts, losses, rows = [], [], []
    pixels = torch.zeros((), dtype=torch.int64)
    started = time.perf_counter()
    for batch in batches:
        images, masks = plain(batch.images, batch.masks)
        with autocast(images.device, amp_dtype(amp, images.device)):
            logits = model(images)
        counts.append(pixel_counts(logits, masks, threshold))
        losses.append(bce_dice(logits, masks) * len(batch.rows))
        pixels = pixels.to(logits.device) + logit_counts(logits, masks)
        rows.append(torch.from_numpy(batch.rows))
    if not counts:  # more processes than samples
        counts, losses = [torch.zeros((0, 4), dtype=torch.int64)], [torch.zeros(())]
        rows, pixels = [torch.zeros(0, dtype=torch.int32)], logit_counts(*torch.zeros((2, 0)))
    joined = processes.gather(torch.cat(counts)).cpu()
    loss = processes.gather(torch.stack(losses)).sum()
    histogram = processes.gather(pixels[None]).sum(dim=0)
    names = processes.gather(torch.cat(rows)).numpy()
    seconds = time.perf_counter() - started
    return Evaluation(
        names,
        joined,
        float(loss) / max(1, len(joined)),
        len(joined) / seconds,
        LogitHistogram(histogram.cpu().numpy()),
    )


def in_order(
    loader: Loader, processes: Processes | None = None, quiet: bool = True
) -> Iterable[Batch]:
    """Yield this process's share of a split for an evaluation, with a bar."""
    processes = processes or Processes()
    batch = _BATCH.get(loader.device.type, _CPU_BATCH)
    order = loader.split.in_order(batch, processes.rank, processes.world)
    hidden = True if quiet or not processes.is_first else None
    bar: Iterable[Batch] = tqdm(loader.batches(order), total=len(order), unit="batch",
                                desc="evaluate", disable=hidden, leave=False)  # fmt: skip
    return bar


def calibrate(checkpoint: Checkpoint, loader: Loader, amp: str = "off") -> Checkpoint:
    """Correct the probabilities of a model, and choose its threshold, both on val."""

    def run(changed: Checkpoint) -> Evaluation:
        model = changed.build().to(loader.device)
        return evaluate(model, in_order(loader), threshold=changed.threshold, amp=amp)

    before = run(checkpoint).histogram
    correction = before.fit()
    after = LogitHistogram(before.counts, correction)
    calibration = asdict(correction) | {
        "error_before": before.reliability().error_unsure,
        "error": after.reliability().error_unsure,
    }
    finished = replace(checkpoint, calibration=calibration, threshold=after.best_threshold())
    return replace(finished, metrics=asdict(run(finished).metrics))


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation and what it was made with."""

    evaluation: Evaluation
    checkpoint: Checkpoint
    model: nn.Module
    loader: Loader
    processes: Processes
    amp: str


def evaluate_checkpoint(
    model_path: Path, shards: Place, split: str, *, device: str = "auto", loader: str = "auto",
    amp: str = "auto", verify: str = "on",
) -> EvaluationRun:  # fmt: skip
    """Evaluate a checkpoint file on a split of a pack; alone or under `torchrun`.

    Raises
    ------
    InputError
        If checkpoint, pack, split or device are missing or do not fit together.
    """
    with join_processes(device) as (processes, chosen):
        checkpoint = Checkpoint.load(model_path)
        model = checkpoint.build().to(chosen)
        samples = Split.open(shards, split, verify != "off")
        processes.check(samples.samples, split)
        if samples.size != checkpoint.spec.size:
            problem = f"holds {samples.size}-pixel squares, the model wants {checkpoint.spec.size}"
            raise InputError(shards, problem, f"Pack with --size {checkpoint.spec.size}")
        source = Loader(samples, chosen, loader)
        evaluation = evaluate(
            model, in_order(source, processes, quiet=False), threshold=checkpoint.threshold,
            amp=amp, processes=processes,
        )  # fmt: skip
        return EvaluationRun(evaluation, checkpoint, model, source, processes, amp)

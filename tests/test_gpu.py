"""What only a CUDA device can show; skipped, with the reason, if there is none."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from common import blobs

from preprocess.runtime import dali_is_installed
from train.augment import augment
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.data import Loader
from train.device import amp_dtype
from train.draw import draw
from train.evaluate import evaluate_checkpoint
from train.loop import fit
from train.model import UNet, to_channels_last
from train.split import Split
from train.step import TrainStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
needs_dali = pytest.mark.skipif(not dali_is_installed(), reason="DALI is not installed")
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
LOADERS = [pytest.param("dali", marks=needs_dali), "portable"]
SMALL = ModelConfig(width=8, depth=2)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("cache", ["off", "1"])
def test_batches_agree_with_the_cpu(pack_root: Path, loader: str, cache: str) -> None:
    """Hardware decoders round chroma and IDCT in their own way: 3 levels, and 1 in the mean."""
    split = Split.open(pack_root, "train")
    order = list(split.shuffled(4, 1, 0))
    on_gpu = Loader(split, GPU, loader, cache).batches(order)
    for gpu, cpu in zip(on_gpu, Loader(split, CPU, "portable").batches(order), strict=True):
        assert gpu.images.device == gpu.masks.device == GPU
        assert np.array_equal(gpu.rows, cpu.rows)
        assert torch.equal(gpu.masks.cpu(), cpu.masks)
        difference = (gpu.images.cpu().int() - cpu.images.int()).abs().float()
        assert float(difference.mean()) < 1
        assert float(difference.quantile(0.999)) <= 3


def test_augmentation_agrees_with_the_cpu(pack_root: Path) -> None:
    split = Split.open(pack_root, "train")
    (rows,) = split.in_order(20)
    (batch,) = Loader(split, CPU, "portable").batches([rows])
    numbers = draw(AugmentConfig(), 64, (0, 0, 0), split.eyes(rows), (32, 48))
    images, masks = augment(batch.images, batch.masks, numbers, (32, 48))
    on_gpu = augment(batch.images.to(GPU), batch.masks.to(GPU), numbers, (32, 48))
    assert on_gpu[0].is_contiguous(memory_format=torch.channels_last)
    # JPEG may take a rounding difference to the next step of its quantisation.
    assert float((on_gpu[0].cpu() - images).abs().mean()) < 0.2
    assert float((on_gpu[1].cpu() != masks).float().mean()) < 1e-3


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = blobs(8)
    return images.to(GPU), masks.to(GPU)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("parts", [1, 4])
def test_the_graph_takes_the_steps_that_eager_code_takes(amp: str, parts: int) -> None:
    losses, weights = [], []
    for captured in (False, True):
        torch.manual_seed(0)
        step = TrainStep(to_channels_last(UNet(SMALL), GPU), 5e-3, amp, accumulate=parts)
        step._may_capture = captured
        losses.append([float(step(*batch(), 1 - n / 40, 0.9)) for n in range(30)])
        weights.append(torch.cat([p.detach().flatten() for p in step.average.parameters()]))
        assert bool(step._graphs) == captured
    assert losses[1][-1] < 0.3 * losses[1][0]
    tolerance = 0.02 if amp == "off" else 0.1
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert float((weights[0] - weights[1]).norm() / weights[0].norm()) < tolerance


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("cache", ["off", "auto"])
def test_an_epoch_does_not_wait_more_for_more_steps(
    pack_root: Path, tmp_path: Path, loader: str, cache: str
) -> None:
    def waits(batch: int) -> int:
        config = TrainConfig(
            pack_root, tmp_path / f"{batch}", epochs=2, batch=batch, device="cuda", loader=loader,
            cache=cache, model=ModelConfig(width=4, depth=2),
        )  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")  # of every read that makes the host wait
            try:
                fit(config)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    waits(10)  # warm-up: kernels and allocator
    few, many = waits(10), waits(2)  # 2 and 10 steps an epoch, one look at the loss each
    assert many <= few + 4


def test_training_and_evaluation_on_the_device(pack_root: Path, tmp_path: Path) -> None:
    small = ModelConfig(width=4, depth=2)
    model = fit(TrainConfig(pack_root, tmp_path, 2, 4, device="cuda", model=small)).model_path
    assert amp_dtype("auto", GPU) in {torch.bfloat16, torch.float16}
    on_gpu, on_cpu = (
        evaluate_checkpoint(model, pack_root, "train", device=device).evaluation.metrics.f1
        for device in ("cuda", "cpu")
    )
    assert on_gpu == pytest.approx(on_cpu, abs=0.02)

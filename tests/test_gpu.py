"""What only a CUDA device can show; skipped, with the reason, where there is none."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from preprocess.check import dali_is_installed
from train.batch import LoaderConfig
from train.cache import SampleCache
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.evaluate import evaluate_checkpoint
from train.loader import Loader, open_loader, read_spec
from train.loop import amp_dtype, fit
from train.loss import bce_dice
from train.model import UNet
from train.order import SplitOrder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
needs_dali = pytest.mark.skipif(not dali_is_installed(), reason="DALI is not installed")


def open_split(root: Path, device: str, kind: str, augment: AugmentConfig) -> Loader:
    order = SplitOrder.read(root, "train", 4, shuffle=True, seed=1)
    config = LoaderConfig(order, read_spec(root), augment, torch.device(device, 0))
    return open_loader(config, kind)


@needs_dali
def test_mixed_decode_agrees_with_the_cpu(pack_root: Path) -> None:
    """Hardware decoders round chroma and IDCT in their own way: 3 levels, and 1 in the mean."""
    off = AugmentConfig.off()
    on_gpu = open_split(pack_root, "cuda", "dali", off).epoch(0)
    on_cpu = open_split(pack_root, "cpu", "dali", off).epoch(0)
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.images.is_cuda
        assert gpu.images.is_contiguous(memory_format=torch.channels_last)
        assert gpu.keys == cpu.keys
        difference = (gpu.images.cpu() - cpu.images).abs() * 57
        assert float(difference.mean()) < 1
        assert float(difference.quantile(0.999)) <= 3 or difference.numel() > 16_000_000
        assert torch.equal(gpu.masks.cpu(), cpu.masks)


@needs_dali
def test_augmentation_agrees_with_the_cpu(pack_root: Path) -> None:
    augment = AugmentConfig().with_changes(("jpeg=off",))
    on_gpu = open_split(pack_root, "cuda", "dali", augment).epoch(0)
    on_cpu = open_split(pack_root, "cpu", "dali", augment).epoch(0)
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        difference = (gpu.images.cpu() - cpu.images).abs() * 57
        assert float(difference.mean()) < 1.5
        assert float((gpu.masks.cpu() != cpu.masks).float().mean()) < 2e-3


@needs_dali
def test_cached_samples_agree_with_decoded_ones(pack_root: Path) -> None:
    order = SplitOrder.read(pack_root, "train", 4, shuffle=True, seed=1)
    plain = LoaderConfig(order, read_spec(pack_root), AugmentConfig(), torch.device("cuda", 0))
    cached = replace(plain, cache=SampleCache(order.samples, plain.spec.size))
    loader, again = open_loader(plain, "dali"), open_loader(cached, "dali")
    for epoch in range(2):
        for one, other in zip(loader.epoch(epoch), again.epoch(epoch), strict=True):
            torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-4)
            assert torch.equal(one.masks, other.masks)


def test_bfloat16_step_lowers_the_loss_and_keeps_the_memory_format() -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = UNet(ModelConfig(width=8, depth=3)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    images = torch.randn(4, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
    masks = (images[:, :1] > 1).float()
    formats: list[bool] = []
    model.decoder[0].register_forward_hook(
        lambda *_: formats.append(_[2].is_contiguous(memory_format=torch.channels_last))
    )
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = bce_dice(model(images), masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(formats)


@pytest.mark.parametrize("loader", [pytest.param("dali", marks=needs_dali), "portable"])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_step_does_not_wait_for_the_device(
    pack_root: Path, tmp_path: Path, loader: str, amp: str
) -> None:
    """torch warns of every read that makes the host wait: more steps must not mean more."""

    def waits(batch: int) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                fit(TrainConfig(
                    pack_root, tmp_path / f"{batch}", epochs=1, batch=batch, log_every=1000,
                    device="cuda", amp=amp, loader=loader, model=ModelConfig(width=4, depth=2),
                ))  # fmt: skip
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    waits(10)  # warm-up: kernels and allocator
    few, many = waits(10), waits(1)  # 2 and 20 steps; evaluation has 1 and 2 batches
    assert many <= few + 4


def test_training_and_evaluation_on_the_device(pack_root: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        pack_root, tmp_path, epochs=2, batch=4, device="cuda", model=ModelConfig(width=4, depth=2)
    )
    result = fit(config)
    assert amp_dtype("auto", torch.device("cuda")) in {torch.bfloat16, torch.float16}
    on_gpu = evaluate_checkpoint(result.model_path, pack_root, "train", device="cuda").evaluation
    on_cpu = evaluate_checkpoint(result.model_path, pack_root, "train", device="cpu").evaluation
    assert on_gpu.metrics.f1 == pytest.approx(on_cpu.metrics.f1, abs=0.02)

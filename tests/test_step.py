"""What a CUDA device will be asked to do, proved without one.

A step must not wait for the device, must keep channels_last, and must not take more launches than
the bound below; bfloat16 and float16 with a scaler must learn. `tests/test_gpu.py` shows the same
on a device.
"""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from common import Patch, blobs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from train.augment import augment
from train.calibration import logit_counts
from train.config import AugmentConfig, ModelConfig
from train.draw import Draw, draw
from train.metrics import metrics_of, pixel_counts
from train.model import UNet, to_channels_last
from train.step import TrainStep

SMALL = ModelConfig(width=8, depth=2)


def drawn(count: int) -> Draw:
    """Draw every effect for pictures of 64 x 64."""
    eyes = np.tile(np.array([[20.0, 24.0], [44.0, 24.0]], np.float32), (count, 1, 1))
    often = AugmentConfig().with_changes(("lids=0.5:1", "glasses=0.5:0.8", "shade=0.5:0.97"))
    numbers = draw(often, 64, (0, 0, 0), eyes, (32, 48))
    flags = (array for array in numbers.arrays().values() if array.dtype == np.bool_)
    assert all(flag.any() for flag in flags)
    return numbers


def name_of(function: Any) -> str:
    return str(function.name().removeprefix("aten::").split(".")[0])


class Launches(TorchDispatchMode):
    """Counts the operations that a device would be asked for: all but views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
        name = name_of(function)
        if not (function.is_view or name in {"_unsafe_view", "detach"} or "empty" in name):
            self.counts[name] += 1
        return function(*args, **(kw or {}))


def test_a_step_takes_few_launches() -> None:
    """1,700 before; Muon alone took 1,270 of them."""
    torch.manual_seed(0)
    step = TrainStep(to_channels_last(UNet()), 5e-3)
    images, masks = blobs()
    step(images, masks, 1.0, 0.5)
    with Launches() as whole:
        step(images, masks, 1.0, 0.5)
    with Launches() as muon:
        step.optimizers[1].step()
    with Launches() as average:
        step._ema.update(torch.tensor(0.9))
    assert sum(muon.counts.values()) <= 234
    assert sum(average.counts.values()) <= 30
    assert sum(whole.counts.values()) <= 700, whole.counts.most_common(12)


def test_the_augmentation_takes_few_launches_whatever_the_batch() -> None:
    counts = []
    for count in (16, 256):
        numbers, images = drawn(count), torch.zeros(count, 64, 64, 3, dtype=torch.uint8)
        flags = (numbers.hidden, numbers.blurred, numbers.noisy, numbers.compressed)
        assert all(flag.any() for flag in flags), "every effect has a picture"
        with Launches() as launches:
            augment(images, images[..., 0], numbers, (32, 48))
        counts.append(sum(launches.counts.values()))
    assert counts[0] == counts[1] <= 350


class NoReading(TorchDispatchMode):
    """Raises at whatever makes the host wait: reading a value, or a shape that depends on one."""

    READS = frozenset({"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select",
                       "bincount", "_unique2", "histc"})  # fmt: skip

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
        name = name_of(function)
        by_mask = name == "index" and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        assert name not in self.READS, f"{name}: the host waits for the device"
        assert not by_mask, "index by a mask: the host waits for the device"
        return function(*args, **(kw or {}))


@pytest.fixture
def no_reading(monkeypatch: Patch) -> NoReading:
    """Make every way in which Python reads a tensor's values an error, `.cpu()` among them."""

    def read(self: Tensor, *_: object, **__: object) -> None:
        raise AssertionError("the host waits for the device")

    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, read)
    return NoReading()


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_never_waits_for_the_device(no_reading: NoReading, amp: str) -> None:
    step = TrainStep(to_channels_last(UNet(SMALL)), 5e-3, amp)
    images, masks = blobs()
    with no_reading, pytest.raises(AssertionError, match="waits for the device"):
        images[masks.expand_as(images) > 0]
    with no_reading:
        for _ in range(2):
            step(images, masks, 1.0, 0.5)


def test_augmentation_and_counting_never_wait_for_the_device(no_reading: NoReading) -> None:
    numbers, images = drawn(16), torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
    with no_reading:
        pictures, masks = augment(images, images[..., 0], numbers, (32, 48))
        logits = pictures[:, :1] - 128
        assert pixel_counts(logits, masks).shape == (16, 4)
        assert logit_counts(logits, masks).shape == (2, 4000)


def test_every_layer_stays_channels_last_after_a_shuffle_that_does_not() -> None:
    """CUDA's pixel shuffle returns rows of planes: what follows must come back."""

    class Shuffle(nn.PixelShuffle):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features).contiguous()

    model = to_channels_last(UNet(SMALL))
    model.shuffle = Shuffle(2)

    def watch(module: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        for values in (given[0], out):
            assert values.is_contiguous(memory_format=torch.channels_last), module

    for module in model.modules():
        if not list(module.children()) and module is not model.shuffle:
            module.register_forward_hook(watch)
    model(blobs()[0])


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_every_precision_learns(amp: str) -> None:
    torch.manual_seed(0)
    step = TrainStep(to_channels_last(UNet(SMALL)), 5e-3, amp)
    images, masks = blobs(side=48)
    losses = [float(step(images, masks, 1.0, 0.9)) for _ in range(40)]
    assert losses[-1] < 0.25 * losses[0]
    with torch.inference_mode():
        assert metrics_of(pixel_counts(step.model.eval()(images), masks)).f1 > 0.9
    assert all(p.dtype is torch.float32 for p in step.model.parameters())


def begun() -> tuple[TrainStep, list[Tensor]]:
    """Take a step in float16; return what it was taken with, and copies of the weights."""
    torch.manual_seed(0)
    step = TrainStep(to_channels_last(UNet(SMALL)), 5e-3, "fp16")
    step(*blobs(), 1.0, 0.9)
    return step, [p.detach().clone() for p in step.model.parameters()]


def test_a_gradient_that_overflows_moves_nothing_and_lowers_the_scale() -> None:
    step, before = begun()
    momenta = [s["momentum"].clone() for s in step.optimizers[1].state.values()]
    scale, (images, masks) = step.scaler.get_scale(), blobs()
    step(images * float("inf"), masks, 1.0, 0.9)
    assert step.scaler.get_scale() == scale / 2
    assert all(map(torch.equal, step.model.parameters(), before))
    for state, old in zip(step.optimizers[1].state.values(), momenta, strict=True):
        assert torch.isfinite(state["momentum"]).all()
        torch.testing.assert_close(state["momentum"], 0.95 * old)


@pytest.mark.parametrize("name", ["stem.0.weight", "encoder.0.0.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_overflow_in_one_part_stops_both_optimizers(name: str, value: float) -> None:
    """AdamW owns the first, Muon the second; clipping would spread it to the other's gradients."""
    step, before = begun()
    step.model.get_parameter(name).register_hook(
        lambda grad: grad.index_put((torch.tensor(0),), torch.tensor(value))
    )
    step(*blobs(), 1.0, 0.9)
    assert all(map(torch.equal, step.model.parameters(), before))


def test_a_pack_whose_eyes_are_drawn_wider_gets_a_shift_and_the_model_does_not() -> None:
    images, masks = blobs(8)
    packs = torch.arange(8) % 2
    wide = nn.functional.max_pool2d(masks, 5, 1, 2)
    masks = torch.where(packs[:, None, None, None] == 1, wide, masks)
    torch.manual_seed(0)
    step = TrainStep(to_channels_last(UNet(SMALL)), 5e-3, packs=2)
    for _ in range(40):
        step(images, masks, 1.0, 0.9, packs)
    assert step.shifted is not None
    narrow, wider = (step.shifted.shift - step.shifted.shift.mean()).tolist()
    assert wider > 0.05 > -0.05 > narrow
    with torch.no_grad():
        shifted = step.shifted.eval()(images, packs)
        plain = step.model(images)
    torch.testing.assert_close((shifted - plain)[1], torch.full_like(plain[1], wider))


def test_state_comes_back_whole() -> None:
    images, masks = blobs()
    torch.manual_seed(0)
    step, again = (TrainStep(to_channels_last(UNet(SMALL)), 5e-3, "fp16") for _ in range(2))
    for light in (1.0, 1.0, float("inf")):
        step(light * images, masks, 0.7, 0.9)
    again.load_state_dict(step.state_dict(), step.average.state_dict())
    assert again.scaler.get_scale() == step.scaler.get_scale()
    for _ in range(2):
        assert torch.equal(step(images, masks, 0.5, 0.9), again(images, masks, 0.5, 0.9))
    averages = (each.average.state_dict().values() for each in (step, again))
    for one, other in zip(*averages, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)

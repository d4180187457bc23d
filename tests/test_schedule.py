import copy

import pytest
import torch

from train.config import ModelConfig
from train.model import UNet
from train.schedule import ema_decay, learning_rate, update_average


def test_rate_rises_to_the_peak_and_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] > 0
    assert rates[100] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.505, abs=1e-6)


def test_average_forgets_the_start_quickly_then_reaches_its_decay() -> None:
    decays = [ema_decay(step, 0.99) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.99


def test_average_moves_by_its_share_buffers_included() -> None:
    model = UNet(ModelConfig(width=4, depth=1))
    average = copy.deepcopy(model)
    with torch.no_grad():
        for value in model.state_dict().values():
            value += 4
    before = copy.deepcopy(average.state_dict())
    update_average(average, model, 0.75)
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, before[name] + 1)
    assert any("running_mean" in name for name in before)

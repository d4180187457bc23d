"""Muon: what orthogonalising does, and which weights go where; rates and averaged weights."""

import copy

import pytest
import torch
from torch import nn

from train.config import ModelConfig
from train.model import UNet
from train.optimizer import (
    Average,
    Muon,
    average_decay,
    build_optimizers,
    learning_rate,
    orthogonalise,
)

SHAPES = [(16, 144), (144, 16), (8, 8), (64, 576), (16, 300)]


def matrices() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator) @ torch.diag(torch.logspace(-1.5, 0.5, shape[1]))
        for shape in SHAPES
    ]


def test_batches_of_gram_matrices_equal_the_published_iteration() -> None:
    for matrix, result in zip(matrices(), orthogonalise(matrices()), strict=True):
        x = matrix / matrix.norm()
        x = x.T if len(x) > x.shape[1] else x
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if x.shape != matrix.shape else x
        torch.testing.assert_close(result, x, rtol=1e-3, atol=1e-4)


def test_a_zero_gradient_moves_nothing_but_the_decay() -> None:
    weights = nn.Parameter(torch.ones(16, 16, 3, 3))
    weights.grad = torch.zeros_like(weights)
    Muon([weights], [], lr=0.1).step()
    torch.testing.assert_close(weights, torch.full_like(weights, 1 - 0.1 * 0.01))


def test_a_transposed_convolution_moves_as_its_matrix_does() -> None:
    """The update of in x out x 2 x 2 is that of the linear map from inputs to all outputs."""
    torch.manual_seed(0)
    transposed = nn.Parameter(torch.zeros(32, 16, 2, 2))
    transposed.grad = torch.randn_like(transposed)
    Muon([], [transposed], lr=1.0).step()
    matrix = transposed.detach().movedim(0, -1).reshape(64, 32)
    values = torch.linalg.svdvals(matrix) / 2**0.5  # twice as many outputs as inputs
    assert 0.6 < values.min() < values.max() < 1.3


def test_every_weight_has_one_optimizer_and_logits_belong_to_adamw() -> None:
    model = UNet(ModelConfig())
    adamw, muon = build_optimizers(model, 5e-3)
    owned = [p for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))
    filters = {id(p) for g in muon.param_groups for p in g["params"]}
    (group,) = muon.param_groups
    assert all(p.ndim == 4 and min(p.shape[:2]) >= 8 for p in group["params"])
    assert not {id(model.coarse.weight), id(model.head.weight)} & filters
    assert id(model.up[0].weight) in filters
    assert [g["peak"] for o in (adamw, muon) for g in o.param_groups] == [5e-3, 5e-3, 0.02]
    assert adamw.param_groups[1]["weight_decay"] == 0


def test_rate_rises_to_the_peak_and_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step, 100, 10) for step in range(101)]
    assert 0 < rates[0] < rates[10] == max(rates)
    assert rates == [*sorted(rates[:10]), *sorted(rates[10:], reverse=True)]
    assert [rates[step] for step in (10, 55, 100)] == pytest.approx([1, 0.505, 0.01])


def test_average_forgets_the_start_quickly_then_reaches_its_decay() -> None:
    decays = [average_decay(step) for step in range(6000)]
    assert decays == sorted(decays)
    assert (decays[0], decays[-1]) == (pytest.approx(0.1), 0.998)


def test_average_moves_by_its_share_buffers_included() -> None:
    model = UNet(ModelConfig(width=4, depth=1))
    average = copy.deepcopy(model)
    mover = Average(average, model)
    with torch.no_grad():
        for value in model.state_dict().values():
            value += 4
    before = copy.deepcopy(average.state_dict())
    mover.update(torch.tensor(0.75))
    for name, value in average.state_dict().items():
        expected = before[name] + (1 if value.is_floating_point() else 4)
        torch.testing.assert_close(value, expected)
    assert any("running_mean" in name for name in before)

"""Muon: what orthogonalising does, and which weights go where."""

import pytest
import torch
from torch import nn

from train.config import ModelConfig
from train.model import UNet
from train.optimizer import Muon, build_optimizers, orthogonalise


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (8, 8), (64, 576)])
def test_singular_values_come_close_to_one_in_the_same_directions(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) @ torch.diag(
        torch.logspace(-1.5, 0.5, shape[1])
    )
    result = orthogonalise(matrix)
    assert result.shape == shape
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.min() < values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    rotated = left.T @ result @ right.T
    off_diagonal = rotated - torch.diag(rotated.diagonal())
    assert off_diagonal.abs().max() < 0.02


def test_gram_form_equals_the_published_iteration() -> None:
    matrix = torch.randn(32, 288, generator=torch.Generator().manual_seed(1))
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(matrix), x, rtol=1e-3, atol=1e-4)


def test_a_zero_gradient_moves_nothing() -> None:
    weights = nn.Parameter(torch.ones(16, 16, 3, 3))
    weights.grad = torch.zeros_like(weights)
    Muon([weights], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    assert torch.equal(weights, torch.ones_like(weights))


def test_every_weight_has_one_optimizer_and_small_ones_are_left_to_adamw() -> None:
    model = UNet(ModelConfig())
    adamw, muon = build_optimizers(model, muon_lr=0.02, lr=5e-3, weight_decay=0.01)
    owned = [p for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))
    for weights in (p for g in muon.param_groups for p in g["params"]):
        assert weights.ndim == 4
        assert min(weights.shape[:2]) >= 8
    assert [g["peak"] for o in (adamw, muon) for g in o.param_groups] == [5e-3, 5e-3, 0.02]
    assert adamw.param_groups[1]["weight_decay"] == 0
    (alone,) = build_optimizers(model, muon_lr=0.0, lr=5e-3, weight_decay=0.01)
    assert isinstance(alone, torch.optim.AdamW)


def test_it_learns_a_convolution() -> None:
    torch.manual_seed(0)
    model, target = (nn.Conv2d(16, 16, 3, bias=False) for _ in range(2))
    (_, muon) = build_optimizers(model, muon_lr=0.02, lr=5e-3, weight_decay=0.0)
    losses = []
    for step in range(60):
        muon.param_groups[0]["lr"] = 0.1 * (1 - step / 60)
        images = torch.randn(8, 16, 8, 8)
        loss = (model(images) - target(images)).square().mean()
        loss.backward()
        muon.step()
        muon.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]

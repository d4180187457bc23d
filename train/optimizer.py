"""The optimisers: Muon for the filters, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration (Jordan et al., 2024), chosen for steep growth at 0.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_MIN_SIDE = 8  # smaller matrices (the first convolution's 3 channels, the head) are left to AdamW


def orthogonalise(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix by about 1 (0.7 to 1.2).

    Newton-Schulz iteration of Muon (Jordan et al., 2024), carried out on the small Gram matrix:
    each iterate is a polynomial of X X^T times X, so only the first and the last product have the
    long side. A third of the time for filters nine times wider than high.

    Parameters
    ----------
    matrix
        m x n, float32.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for iteration in range(_ITERATIONS):
        step = _A * identity + _B * gram + _C * (gram @ gram)
        product = step @ product if iteration else step
        if iteration + 1 < _ITERATIONS:
            gram = step @ gram @ step
    x = product @ x
    whole: Tensor = x.T if tall else x
    return whole


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al., "Muon", 2024), for convolution filters.

    A filter bank counts as a matrix of output channels by everything else. All directions of it
    are moved alike, however small their gradient: a U-Net of this size learns in half the steps
    that AdamW needs.

    Parameters
    ----------
    parameters
        Tensors of two or more dimensions.
    lr, momentum
        Step size, and share of the old momentum.
    weight_decay
        Share of the weights taken away a step, times `lr`.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step."""
        assert closure is None
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                state = self.state[weights]
                if not state:
                    state["momentum"] = torch.zeros_like(weights)
                momentum = state["momentum"]
                momentum.lerp_(weights.grad, 1 - group["momentum"])
                ahead = weights.grad.lerp(momentum, group["momentum"])  # Nesterov
                matrix = ahead.flatten(1).float()
                grow = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                update = orthogonalise(matrix).view(ahead.shape)
                weights.mul_(1 - group["lr"] * group["weight_decay"])
                weights.add_(update, alpha=-group["lr"] * grow)


def build_optimizers(
    model: nn.Module, *, muon_lr: float, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Share the weights of a model out.

    Parameters
    ----------
    model
        The network.
    muon_lr
        Peak rate of Muon, for the filters with at least 8 channels on either side; 0 leaves all
        to AdamW.
    lr
        Peak rate of AdamW (Loshchilov and Hutter, ICLR 2019).
    weight_decay
        Of convolution weights only: biases and normalisation have no scale to lose.

    Returns
    -------
    list
        Optimisers; each group's "peak" is what a schedule multiplies.
    """

    def is_filter(weights: Tensor) -> bool:
        return weights.ndim == 4 and min(weights.shape[:2]) >= _MIN_SIDE and muon_lr > 0

    parameters = list(model.parameters())
    filters = [p for p in parameters if is_filter(p)]
    weights = [p for p in parameters if p.ndim > 1 and not is_filter(p)]
    others = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, fused=True)]
    if filters:
        optimizers.append(Muon(filters, muon_lr, momentum=0.95, weight_decay=weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers

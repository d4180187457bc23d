"""The optimisers: Muon for the filters, AdamW for everything else; rates and averaged weights.

Nothing here waits for the device, so a step can be captured as a CUDA graph: rates are tensors,
and a gradient that overflowed in float16 is undone by arithmetic, not by a branch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from train.model import UNet

# Coefficients of the quintic iteration (Jordan et al., 2024), chosen for steep growth at 0.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_MIN_SIDE = 8  # smaller matrices (the first convolution's 3 channels) are left to AdamW
_MUON_RATE = 4.0  # times the rate of AdamW; at 8 the first third of a run was 0.03 of F1 behind
_SHIFT_RATE = 1e-2  # of the packs' shifts: found within an epoch
_MOMENTUM = 0.95
_WEIGHT_DECAY = 1e-2
_AVERAGE = 0.998  # share of the averaged weights that a step keeps: half a thousand steps


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Replace the singular values of matrices, float32, by about 1 (0.7 to 1.2).

    Newton-Schulz iteration of Muon (Jordan et al., 2024), carried out on the small Gram matrices:
    each iterate is a polynomial of X X^T times X, so only the first and the last product have the
    long side. Gram matrices of one size are one batch. In bfloat16 this form diverges.
    """
    tall = [len(matrix) > matrix.shape[1] for matrix in matrices]
    wide = [m.T if flip else m for m, flip in zip(matrices, tall, strict=True)]
    scaled = torch._foreach_div(wide, torch._foreach_add(torch._foreach_norm(wide), 1e-7))
    by_side = defaultdict(list)
    for number, matrix in enumerate(scaled):
        by_side[len(matrix)].append(number)
    result = list(scaled)
    for numbers in by_side.values():
        gram = torch.stack([scaled[number] @ scaled[number].T for number in numbers])
        product = gram
        for iteration in range(_ITERATIONS):
            step = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
            step.diagonal(dim1=1, dim2=2).add_(_A)
            product = step @ product if iteration else step
            if iteration + 1 < _ITERATIONS:
                gram = step @ gram @ step
        for number, factor in zip(numbers, product, strict=True):
            result[number] = factor @ scaled[number]
    return [m.T if flip else m for m, flip in zip(result, tall, strict=True)]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al., "Muon", 2024), for convolution filters.

    A filter bank counts as a matrix of output channels by everything else. All directions of it
    are moved alike, however small their gradient: a U-Net of this size learns in half the steps
    that AdamW needs. Of transposed convolutions (in x out x k x k) the k x k outputs are separate
    rows of the matrix, as their stride is k.
    """

    # GradScaler hands over whether a gradient overflowed instead of reading it.
    _step_supports_amp_scaling = True

    def __init__(self, filters: list[Tensor], transposed: list[Tensor], lr: float) -> None:
        super().__init__([*filters, *transposed], {"lr": lr})
        self._transposed = [False] * len(filters) + [True] * len(transposed)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step, of no length if a gradient overflowed."""
        assert closure is None
        (group,) = self.param_groups
        weights, rate = group["params"], group["lr"]
        grads = [p.grad for p in weights]
        overflow: Tensor | None = getattr(self, "found_inf", None)
        if overflow is not None:
            rate = rate * (1 - overflow)
            grads = [torch.where(overflow > 0, 0.0, grad) for grad in grads]
        if not self.state:
            for p in weights:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momenta, grads, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(grads, momenta, _MOMENTUM)  # Nesterov
        matrices = [_as_matrix(u, t) for u, t in zip(ahead, self._transposed, strict=True)]
        # More outputs than inputs: each moves as far all the same (Jordan et al., 2024).
        growth = [max(1.0, m.shape[0] / m.shape[1]) ** 0.5 for m in matrices]
        updates = [
            _as_filter(u, p, t)
            for u, p, t in zip(orthogonalise(matrices), weights, self._transposed, strict=True)
        ]
        torch._foreach_mul_(updates, growth)
        torch._foreach_mul_(updates, rate)
        torch._foreach_mul_(weights, 1 - rate * _WEIGHT_DECAY)
        torch._foreach_sub_(weights, updates)


def _as_matrix(weights: Tensor, transposed: bool) -> Tensor:
    """Lay a filter bank out as outputs x inputs."""
    if transposed:
        return weights.movedim(0, -1).flatten(0, 2).float()
    return weights.flatten(1).float()


def _as_filter(matrix: Tensor, like: Tensor, transposed: bool) -> Tensor:
    if transposed:
        return matrix.view(*like.shape[1:], like.shape[0]).movedim(-1, 0)
    return matrix.view(like.shape)


def build_optimizers(
    model: UNet, lr: float, shift: Tensor | None = None
) -> list[torch.optim.Optimizer]:
    """Share the weights of a model, on its device, out: AdamW first, then Muon.

    Muon takes the filters with at least 8 channels on either side; AdamW (Loshchilov and Hutter,
    ICLR 2019), whose peak rate `lr` is, takes the rest, the layers that emit logits among them.
    Weights decay; biases and normalisation have no scale to lose. `shift`, of the packs' logits,
    has a rate of its own. A schedule multiplies each group's "peak".
    """
    device = next(model.parameters()).device
    banks: dict[type[nn.Module], list[Tensor]] = {nn.Conv2d: [], nn.ConvTranspose2d: []}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            emits = module is model.coarse or module is model.head
            if min(module.weight.shape[:2]) >= _MIN_SIDE and not emits:
                banks[type(module)].append(module.weight)
    filters = {id(bank) for kind in banks.values() for bank in kind}
    rest = [p for p in model.parameters() if id(p) not in filters]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if shift is not None:
        groups.append({"params": [shift], "weight_decay": 0.0, "lr": _SHIFT_RATE})
    adamw = torch.optim.AdamW(
        groups, lr, fused=device.type in {"cpu", "cuda"}, capturable=device.type == "cuda"
    )
    muon = Muon(banks[nn.Conv2d], banks[nn.ConvTranspose2d], _MUON_RATE * lr)
    for group in (*adamw.param_groups, *muon.param_groups):
        group["peak"] = group["lr"]
        group["lr"] = torch.tensor(group["peak"], device=device)
    return [adamw, muon]


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate: up a line over `warmup` steps, then down to a hundredth.

    Down half a cosine: Loshchilov and Hutter, ICLR 2017.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def average_decay(step: int) -> float:
    """Return the share of the old average that step `step` (from 0) keeps.

    Grows as (1 + step) / (10 + step) up to its limit, so the start is forgotten in short runs too
    (as in TensorFlow's ExponentialMovingAverage).
    """
    return min(_AVERAGE, (1 + step) / (10 + step))


class Average:
    """Moves the weights of `average` towards those of `model`; batch statistics move alike."""

    def __init__(self, average: nn.Module, model: nn.Module) -> None:
        # Listed once: to collect them anew takes half a millisecond a step.
        pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
        self._old = [old for old, _ in pairs if old.is_floating_point()]
        self._new = [new for _, new in pairs if new.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: Tensor) -> None:
        """Keep a share `decay`, 0 to 1, of the average."""
        way = torch._foreach_sub(self._new, self._old)
        torch._foreach_mul_(way, 1 - decay)
        torch._foreach_add_(self._old, way)
        for old, new in self._counters:
            old.copy_(new)

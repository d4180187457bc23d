"""One step of training: forward, backward, optimisers, averaged weights.

Nothing in it waits for the device. On a single CUDA device it becomes a graph after a few steps:
one launch instead of some thousand.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from train.device import amp_dtype, autocast
from train.distributed import Processes, distribute, unshared
from train.loss import bce_dice
from train.model import UNet
from train.optimizer import Average, build_optimizers

_CLIP = 1.0  # largest norm of the gradient: the first steps' are ten times that
_EAGER = 3  # steps before a graph is captured: kernels, allocator and optimiser state come first


class _Shifted(nn.Module):
    """A network whose logits are shifted, for each pack by a learnt amount; they add up to 0.

    Annotators of one set draw eyes wider than those of another. The shift takes that up while the
    network trains, so that it learns their mean; it is no part of the model.
    """

    def __init__(self, network: nn.Module, packs: int) -> None:
        super().__init__()
        self.network, self.shift = network, nn.Parameter(torch.zeros(packs))

    def forward(self, images: Tensor, packs: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + (self.shift - self.shift.mean())[packs][:, None, None, None]


class TrainStep:
    """A network, what trains it, and its average: called once a step.

    `model` is on its device, in training mode; `lr` is the peak rate of AdamW; `processes` share
    the work; for `amp` see `amp_dtype`. The samples come from so many `packs`. A batch is computed
    in `accumulate` equal parts, one after the other; the step takes the mean of their gradients.
    """

    def __init__(
        self, model: UNet, lr: float, amp: str = "auto", processes: Processes | None = None,
        packs: int = 1, accumulate: int = 1,
    ) -> None:  # fmt: skip
        processes = processes or Processes()
        self._parts = accumulate
        self.device = next(model.parameters()).device
        self.dtype = amp_dtype(amp, self.device)
        self.model, self.average = model, copy.deepcopy(model).eval()
        self.shifted = _Shifted(model, packs).to(self.device) if packs > 1 else None
        self._trained = distribute(self.shifted or model, processes, self.device)
        shift = self.shifted.shift if self.shifted else None
        self.optimizers = build_optimizers(model, lr, shift)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self._ema = Average(self.average, model)
        self._decay = torch.zeros((), device=self.device)
        self._parameters = list((self.shifted or model).parameters())
        self._calls: Counter[tuple[int, ...]] = Counter()
        self._may_capture = self.device.type == "cuda" and processes.world == 1
        self._graphs: dict[tuple[int, ...], tuple[Any, tuple[Tensor, ...], Tensor]] = {}

    def __call__(
        self, images: Tensor, masks: Tensor, rate: float, decay: float, packs: Tensor | None = None
    ) -> Tensor:
        """Take a step on what `train.augment` returns; return the loss before it, on the device.

        `rate` is the share of the peak rates, `decay` the share of itself that the average keeps;
        `packs`, N int64 on the device, are the numbers of the samples' packs, if there are several.
        """
        inputs = (images, masks) if packs is None else (images, masks, packs)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"].fill_(rate * group["peak"])
        self._decay.fill_(decay)
        if not self._may_capture:
            return self._compute(*inputs)
        shape = tuple(images.shape)
        self._calls[shape] += 1
        if self._calls[shape] > _EAGER:
            return self._replay(*inputs)
        # Beside the default stream: what autograd keeps of it could not be captured.
        here, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            loss = self._compute(*inputs)
        here.wait_stream(side)
        return loss

    def _compute(self, images: Tensor, masks: Tensor, *packs: Tensor) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        chunks = (tensor.chunk(self._parts) for tensor in (images, masks, *packs))
        *parts, last = zip(*chunks, strict=True)
        with unshared(self._trained):
            losses = [self._backward(*part) for part in parts]
        losses.append(self._backward(*last))  # processes share what has added up by now
        loss = sum(losses[1:], losses[0])
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if self.scaler.is_enabled():
            self._share_overflow()
        nn.utils.clip_grad_norm_(self._parameters, _CLIP)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        self._ema.update(self._decay)
        return loss

    def _backward(self, images: Tensor, masks: Tensor, *packs: Tensor) -> Tensor:
        """Add the gradient of a part of the batch; return its share of the loss."""
        with autocast(self.device, self.dtype):
            logits = self._trained(images, *packs)
        loss = bce_dice(logits, masks)
        if self._parts > 1:
            loss = loss / self._parts
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _share_overflow(self) -> None:
        """Let a gradient that overflowed in one optimiser's part stop all of them.

        Clipping spreads it to every gradient, but GradScaler keeps a flag for each optimiser.
        """
        states = (self.scaler._per_optimizer_states[id(each)] for each in self.optimizers)
        flags = [flag for state in states for flag in state["found_inf_per_device"].values()]
        worst = torch.stack(flags).amax(dim=0)
        for flag in flags:
            flag.copy_(worst)

    def _replay(self, *given: Tensor) -> Tensor:
        """Replay the step as a graph, one for each shape of the input; record it at first."""
        shape = tuple(given[0].shape)
        if shape not in self._graphs:
            inputs = tuple(tensor.clone() for tensor in given)  # keeps the memory format
            self._graphs.clear()  # crops grow: the memory of the small ones is free again
            graph = torch.cuda.CUDAGraph()
            # Other threads, DALI's among them, may go on with what a capture forbids in this one.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                loss = self._compute(*inputs)
            self._graphs[shape] = (graph, inputs, loss)
        graph, inputs, loss = self._graphs[shape]
        for static, tensor in zip(inputs, given, strict=True):
            static.copy_(tensor)
        graph.replay()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return, copied to the host, what a run needs to go on."""
        state: dict[str, Any] = to_host({
            "model": (self.shifted or self.model).state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
        })  # fmt: skip
        return state

    def load_state_dict(self, state: dict[str, Any], average: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, and from averaged weights."""
        (self.shifted or self.model).load_state_dict(state["model"])
        self.average.load_state_dict(average)
        for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)
            for group in optimizer.param_groups:  # torch moves the state, but no setting
                group["lr"] = group["lr"].to(self.device)
        self.scaler.load_state_dict(state["scaler"])


def to_host(content: Any) -> Any:
    """Copy nested tensors to the host's memory."""
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: to_host(value) for key, value in content.items()}
    if isinstance(content, list):
        return [to_host(value) for value in content]
    return content

"""The device that computes: which one, in which precision, and how numbers get there."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from preprocess.errors import InputError


def resolve_device(device: str, local_rank: int = 0) -> torch.device:
    """Turn auto, cpu, cuda, cuda:N or mps into a device; an `InputError` if there is none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    index = int(number) if number.isdecimal() else local_rank
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if kind not in there or (number and not number.isdecimal()):
        raise InputError("--device", f"is {device!r}", "Expected auto, cpu, cuda, cuda:N or mps")
    if not there[kind] or (kind == "cuda" and index >= there[kind]):
        problem = f"is {device!r}, but PyTorch sees {there[kind]:d} of the kind"
        raise InputError("--device", problem, "Use --device cpu or auto")
    if kind != "cuda":
        return torch.device(kind)
    torch.cuda.set_device(index)
    return torch.device(kind, index)


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Choose the type of automatic mixed precision; None computes in float32.

    auto: bfloat16 if the GPU has it, else float16 with a gradient scaler; float32 on a CPU
    (bfloat16 there is ten times slower without AMX) and on Metal.
    """
    if amp == "auto":
        if device.type != "cuda":
            return None
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    """Return the context in which a network computes."""
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Hand a tensor to a device, which is not waited for."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    # Metal would read pageable memory after it was freed.
    return tensor.to(device, non_blocking=device.type == "cuda")

"""The DALI decoder: JPEGs on a GPU (its JPEG engine or CUDA), or by DALI's CPU backend.

The bytes come from `Split.read`, so the order of an epoch, and which mask belongs to which
photograph, do not depend on DALI's reader. Label maps are inflated by `preprocess.mask`: 0.02 ms
instead of 0.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

from preprocess.errors import InputError
from train.device import send
from train.portable import Pixels, decode_mask, decode_sample
from train.split import Encoded, Rows, Split

_MORE_THREADS = 1  # than cores: 1.14 times the images a second on two (tests/bench/load.py)


def decode(
    split: Split, batches: Sequence[Rows], device: torch.device, threads: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode samples (see `train.data.Decode`); an `InputError` names one that is unreadable."""
    fed: deque[list[Encoded]] = deque()  # DALI asks for batches before it hands out earlier ones

    def feed() -> Iterator[list[Pixels]]:
        for samples in split.read_batches(batches):
            fed.append(samples)
            yield [np.frombuffer(sample.jpg, np.uint8) for sample in fed[-1]]

    gpu = device.type == "cuda"
    pipeline = _pipeline(
        feed(), "mixed" if gpu else "cpu", split.size, num_threads=threads + _MORE_THREADS,
        batch_size=max(map(len, batches)), device_id=device.index or 0 if gpu else None,
        prefetch_queue_depth=2,
    )  # fmt: skip
    pipeline.build()
    stream = torch.cuda.current_stream(device) if gpu else None
    for _ in batches:
        try:
            (pictures,) = pipeline.run(stream)
            images: Tensor = torch.utils.dlpack.from_dlpack(pictures.as_tensor())
        except RuntimeError as error:
            for samples in fed:
                for sample in samples:
                    decode_sample(sample, split.size)  # names the one that is bad
            problem = f"failed ({str(error).splitlines()[0][:120]})"
            raise InputError("--loader dali", problem, "Use --loader portable") from error
        samples = fed.popleft()
        masks = np.empty(images.shape[:3], np.uint8)
        for sample, mask in zip(samples, masks, strict=True):
            decoded = decode_mask(sample)
            if decoded.shape != mask.shape or images.shape[1] != split.size:
                decode_sample(sample, split.size)
            mask[...] = decoded
        yield images, send(torch.from_numpy(masks), device)


@pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
def _pipeline(feed: Iterator[list[Pixels]], device: str, size: int) -> Any:
    jpg = fn.external_source(source=feed, batch=True, dtype=types.UINT8, ndim=1)
    # The memory of the first batch is asked for at once, not grown picture by picture.
    hint: dict[str, Any] = (
        {"preallocate_width_hint": size, "preallocate_height_hint": size,
         "device_memory_padding": 0, "host_memory_padding": 0}
        if device == "mixed" else {}
    )  # fmt: skip
    return fn.decoders.image(jpg, device=device, output_type=types.RGB, **hint)

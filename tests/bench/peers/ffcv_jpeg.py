"""FFCV over the very JPEG bytes of our shards; its masks, as it has no PNG, are grey JPEGs.

Advice followed: https://docs.ffcv.io/parameter_tuning.html (`os_cache=True` and RANDOM order for a
set that fits into memory) and https://docs.ffcv.io/working_with_images.html. It decodes with
libjpeg-turbo's fast, less exact DCT: pixels are 0.8 levels darker on average.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from ffcv.fields import RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from ffcv.transforms import ToTensor
from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter


class JpegField(RGBImageField):
    """An image field that stores JPEG bytes as they are, instead of encoding pixels again."""

    def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
        height, width, *_ = simplejpeg.decode_jpeg_header(image)
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"], destination["width"] = height, width
        destination["data_ptr"], storage = malloc(len(image))
        storage[:] = np.frombuffer(image, np.uint8)


class ToMask(Operation):
    """Threshold the decoded mask and keep one of its three channels."""

    def generate_code(self) -> Callable:
        each = Compiler.get_iterator()

        def to_mask(images, result, indices):
            for i in each(len(indices)):
                for y in range(images.shape[1]):
                    for x in range(images.shape[2]):
                        result[i, y, x] = 255 if images[i, y, x, 0] > 127 else 0
            return result[: len(indices)]

        to_mask.is_parallel = True
        to_mask.with_indices = True
        return to_mask

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, kind = previous_state.shape[:2], np.dtype("uint8")
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=kind)
        return state, AllocationQuery(shape, kind)


def write(samples: Sequence[dict[str, bytes]], out: Path) -> None:
    """Write packed pairs in FFCV's format."""
    pairs = []
    for sample in samples:
        label = cv2.imdecode(np.frombuffer(sample["png"], np.uint8), cv2.IMREAD_GRAYSCALE)
        grey = np.ascontiguousarray((label > 0)[..., None] * np.uint8(255))
        pairs.append((sample["jpg"], simplejpeg.encode_jpeg(grey, 90, "GRAY")))
    # The smallest pages: larger ones would pad a small file with megabytes.
    fields = {"image": JpegField(), "mask": JpegField()}
    writer = DatasetWriter(str(out), fields, page_size=MIN_PAGE_SIZE, num_workers=1)
    writer.from_indexed_dataset(pairs)


def loader(path: Path, batch: int, workers: int) -> Loader:
    """Open what `write` wrote."""
    return Loader(
        str(path), batch_size=batch, num_workers=workers, os_cache=True, drop_last=True,
        order=OrderOption.RANDOM, custom_fields={"image": JpegField, "mask": JpegField},
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor()],
            "mask": [SimpleRGBImageDecoder(), ToMask(), ToTensor()],
        },
    )  # fmt: skip

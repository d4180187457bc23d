"""FFCV: the very JPEG bytes of our shards in a .beton; masks, which FFCV has no PNG for, as JPEG.

Advice followed: https://docs.ffcv.io/parameter_tuning.html (`os_cache=True`, QUASI_RANDOM or
RANDOM order for a set that fits into memory) and https://docs.ffcv.io/working_with_images.html.
Masks are grey JPEGs of quality 90, thresholded.
FFCV decodes with libjpeg-turbo's fast, less exact DCT: pixels are 0.8 levels darker on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import measure
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
from measure import Batch


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


class Packed:
    """What the writer stores."""

    def __init__(self, pairs: list[tuple[str, bytes, bytes]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[bytes, bytes]:
        _, jpg, png = self.pairs[number]
        label = measure.decode_pillow(jpg, png)[1]
        grey = np.ascontiguousarray((label > 0)[..., None] * np.uint8(255))
        return jpg, simplejpeg.encode_jpeg(grey, quality=90, colorspace="GRAY")


def main() -> None:
    options = measure.parser(__doc__).parse_args()
    out = str(options.data / "ffcv.beton")
    if options.prepare:
        fields = {"image": JpegField(), "mask": JpegField()}
        pairs = measure.read_pairs(options.data)
        # The smallest pages: larger ones would pad a small file with megabytes.
        writer = DatasetWriter(out, fields, page_size=MIN_PAGE_SIZE, num_workers=1)
        writer.from_indexed_dataset(Packed(pairs))
        return
    loader = Loader(
        out, batch_size=measure.BATCH, num_workers=options.workers, os_cache=True,
        order=OrderOption.RANDOM, drop_last=True,
        custom_fields={"image": JpegField, "mask": JpegField},
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor()],
            "mask": [SimpleRGBImageDecoder(), ToMask(), ToTensor()],
        },
    )  # fmt: skip

    def epoch(number: int) -> Iterator[Batch]:
        return iter(loader)

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

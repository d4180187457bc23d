"""DALI by its documentation: `fn.readers.webdataset` and the PyTorch iterator, on our shards.

Advice followed:
https://docs.nvidia.com/deeplearning/dali/user-guide/docs/examples/general/data_loading/dataloading_webdataset.html
with `random_shuffle` and a thread a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import measure
from measure import Batch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator


@pipeline_def
def graph(paths: list[str], indexes: list[str]) -> Any:
    jpg, png = fn.readers.webdataset(
        paths=paths, index_paths=indexes, ext=["jpg", "png"], missing_component_behavior="error",
        random_shuffle=True, name="reader",
    )  # fmt: skip
    image = fn.decoders.image(jpg, output_type=types.RGB)
    label = fn.decoders.image(png, output_type=types.GRAY)
    return image, label


def main() -> None:
    options = measure.parser(__doc__).parse_args()
    shards = sorted((options.data / "shards" / "train").glob("*.tar"))
    pipeline = graph(
        [str(path) for path in shards], [str(path.with_suffix(".idx")) for path in shards],
        batch_size=measure.BATCH, num_threads=options.workers, device_id=None,
    )  # fmt: skip
    batches = DALIGenericIterator(
        [pipeline], ["image", "mask"], reader_name="reader", auto_reset=True,
        last_batch_policy=LastBatchPolicy.DROP,
    )  # fmt: skip

    def epoch(number: int) -> Iterator[Batch]:
        for (batch,) in batches:
            yield batch["image"], batch["mask"]

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

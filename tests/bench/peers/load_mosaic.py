"""MosaicML Streaming: MDS shards of the same JPEG and PNG bytes, decoded in the workers.

Advice followed:
https://docs.mosaicml.com/projects/streaming/en/latest/distributed_training/performance_tuning.html
(the defaults, local shards without compression, `batch_size` told to the dataset).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cpu_torchvision  # noqa: F401  # before streaming, which imports torchvision
import measure
from measure import Batch, Pair
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader


class Pictures(StreamingDataset):
    """Decodes what Streaming read."""

    decoder = "turbo"

    def __getitem__(self, at: Any) -> Pair:
        sample = super().__getitem__(at)
        return measure.DECODERS[self.decoder](sample["jpg"], sample["png"])


def main() -> None:
    options = measure.parser(__doc__).parse_args()
    out = str(options.data / "mosaic")
    if options.prepare:
        with MDSWriter(out=out, columns={"jpg": "bytes", "png": "bytes"}) as writer:
            for _, jpg, png in measure.read_pairs(options.data):
                writer.write({"jpg": jpg, "png": png})
        return
    clean_stale_shared_memory()
    dataset = Pictures(local=out, shuffle=True, batch_size=measure.BATCH)
    dataset.decoder = options.decoder
    loader = DataLoader(
        dataset, batch_size=measure.BATCH, num_workers=options.workers, drop_last=True,
        persistent_workers=True, collate_fn=measure.stack,
    )  # fmt: skip

    def epoch(number: int) -> Iterator[Batch]:
        return iter(loader)

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

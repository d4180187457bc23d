"""LitData: an optimised dataset of the same JPEG and PNG bytes, decoded in the workers.

Advice followed: https://github.com/Lightning-AI/litData#features (`optimize` with chunks of 64 MB,
`StreamingDataLoader` with a worker a core, decoding in `__getitem__`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from litdata import StreamingDataLoader, StreamingDataset, optimize
from measure import Batch, Pair


def read(path: str) -> dict[str, bytes]:
    return {"jpg": Path(path).read_bytes(), "png": Path(path).with_suffix(".png").read_bytes()}


class Pictures(StreamingDataset):
    """Decodes what LitData read."""

    decoder = "turbo"

    def __getitem__(self, index: Any) -> Pair:
        sample = super().__getitem__(index)
        return measure.DECODERS[self.decoder](sample["jpg"], sample["png"])


def main() -> None:
    options = measure.parser(__doc__).parse_args()
    out = options.data / "litdata"
    if options.prepare:
        paths = [str(path) for path in sorted((options.data / "files").glob("*.jpg"))]
        optimize(fn=read, inputs=paths, output_dir=str(out), num_workers=1, chunk_bytes="64MB")
        return
    dataset = Pictures(str(out), shuffle=True, drop_last=True)
    dataset.decoder = options.decoder
    loader = StreamingDataLoader(
        dataset, batch_size=measure.BATCH, num_workers=options.workers, persistent_workers=True,
        collate_fn=measure.stack,
    )  # fmt: skip

    def epoch(number: int) -> Iterator[Batch]:
        return (batch for batch in loader if len(batch[0]) == measure.BATCH)

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

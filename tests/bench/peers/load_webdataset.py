"""webdataset's own pipeline and WebLoader, on our shards as they are.

Advice followed: https://webdataset.github.io/webdataset/sharding/ (batch in the workers,
`batch_size=None` in the loader, several shards a worker).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import measure
import webdataset as wds
from measure import Batch


def main() -> None:
    options = measure.parser(__doc__).parse_args()
    decode = measure.DECODERS[options.decoder]
    shards = [str(path) for path in sorted(Path(options.data, "shards", "train").glob("*.tar"))]
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(256)
        .map(lambda sample: decode(sample["jpg"], sample["png"]))
        .batched(measure.BATCH, partial=False, collation_fn=measure.stack)
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=options.workers, persistent_workers=True
    )

    def epoch(number: int) -> Iterator[Batch]:
        return iter(loader)

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

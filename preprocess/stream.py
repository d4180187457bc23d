"""Read a shard from start to end with the webdataset library, as a pipe would deliver it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def stream_samples(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield webdataset's samples: ``__key__`` and the bytes of each component by extension.

    Any failure is raised, never skipped. (`webdataset.WebDataset` does the same on a list of
    URLs, but leaves closing the files to the garbage collector.)
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with shard.open("rb") as file:
        yield from group_by_keys(tar_file_expander([{"url": str(shard), "stream": file}]))

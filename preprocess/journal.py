"""Which shards there will be, and which of them are finished already.

A shard's digest covers its name, the settings and its samples, so a finished shard is told from
the plan alone. Each one is a line in a journal beside the shards, written after the shard itself;
the journal stays, so that a later run packs only what changed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zlib
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from preprocess.celebamask import SPLITS, Dropped, Plan, RawSample
from preprocess.files import file_sha256, from_fields
from preprocess.manifest import FORMAT_VERSION, EyeCount, PackSettings
from preprocess.shards import ShardRecord, index_path, shard_name

JOURNAL_FILE = ".pack.jsonl"


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is packed: its samples in order, pickled and compressed.

    They wait for their turn in 60 bytes each instead of 1,100.
    """

    name: str
    split: str
    count: int
    packed: bytes
    digest: str
    modified: float

    @property
    def samples(self) -> tuple[RawSample, ...]:
        """The samples, unpacked now."""
        return tuple(pickle.loads(zlib.decompress(self.packed)))


@dataclass(frozen=True)
class ShardResult:
    """A line of the journal: a finished shard and what the manifest will say of it."""

    digest: str
    shard: ShardRecord
    eyes: EyeCount
    dropped: tuple[Dropped, ...]
    empty_masks: tuple[str, ...]


def plan_shards(plan: Plan, settings: PackSettings) -> list[PlannedShard]:
    """Shuffle each split once, by a hash of seed and key, and cut it into shards."""

    def rank(sample: RawSample) -> bytes:
        return hashlib.sha256(f"{settings.seed}:{sample.key}".encode()).digest()

    fixed = f"{FORMAT_VERSION}{json.dumps(asdict(settings), sort_keys=True)}"
    shards = []
    for split in SPLITS:
        samples = iter(sorted((s for s in plan.samples if s.split == split), key=rank))
        number = 0
        while chunk := tuple(islice(samples, settings.samples_per_shard)):
            name = shard_name(split, number)
            content = [
                [s.key, [[part, m.size] for part, m in sorted(s.masks.items())], s.image.size]
                for s in chunk
            ]
            digest = hashlib.sha256(f"{name}{fixed}{json.dumps(content)}".encode()).hexdigest()
            modified = max(member.modified for sample in chunk for member in sample.members)
            packed = zlib.compress(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL), 1)
            shards.append(PlannedShard(name, split, len(chunk), packed, digest, modified))
            number += 1
    return shards


def finished_shards(
    out: Path, shards: list[PlannedShard], *, strict: bool = False
) -> dict[str, ShardResult]:
    """Return the journalled shards that are there, of this plan and not out of date.

    Parameters
    ----------
    out
        Folder of the pack.
    shards
        The plan.
    strict
        Trust no date or size: leave out shards whose checksums differ from the journal's, and
        those that lack a sample, which may be readable by now.
    """
    journal = out / JOURNAL_FILE
    results = {}
    if journal.exists():
        for line in journal.read_text().splitlines():
            try:
                result = _result(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a line cut off by a kill: its shard is packed again
            results[result.digest] = result
    finished = {}
    for shard in shards:
        known = results.get(shard.digest)
        if known is None or not _is_current(out / shard.name, known.shard, shard.modified):
            continue
        if strict and (known.dropped or not _is_whole(out / shard.name, known.shard)):
            continue
        finished[shard.name] = known
    return finished


def _is_current(path: Path, record: ShardRecord, modified: float) -> bool:
    # A shard without samples has no file: its photographs are tried again each time.
    if not (record.samples and path.exists() and index_path(path).exists()):
        return False
    stat = path.stat()
    return stat.st_size == record.bytes and stat.st_mtime >= modified


def _is_whole(path: Path, record: ShardRecord) -> bool:
    digests = file_sha256(path), file_sha256(index_path(path))
    return digests == (record.sha256, record.index_sha256)


def _result(content: dict[str, Any]) -> ShardResult:
    return ShardResult(
        content["digest"],
        from_fields(ShardRecord, content["shard"]),
        from_fields(EyeCount, content["eyes"]),
        tuple(from_fields(Dropped, row) for row in content["dropped"]),
        tuple(content["empty_masks"]),
    )


def start_journal(out: Path, finished: dict[str, ShardResult]) -> None:
    """Start the journal afresh with the shards that stay."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(result)) + "\n" for result in finished.values()]
    (out / JOURNAL_FILE).write_text("".join(lines))


def append_journal(out: Path, result: ShardResult) -> None:
    """Note a finished shard."""
    with (out / JOURNAL_FILE).open("a") as journal:
        journal.write(json.dumps(asdict(result)) + "\n")

"""Which samples go into which shard, in which order: settled before a picture is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from preprocess.celebamask import SPLITS, Plan, RawSample
from preprocess.manifest import FORMAT_VERSION, PackSettings

# A set is cut into this many shards or more, unless they would hold fewer samples than this.
_SHARDS, _LEAST = 32, 32


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is packed."""

    name: str
    samples: tuple[RawSample, ...]
    digest: str  # of name, settings and samples
    modified: float  # when the newest of its files was changed, in seconds since the epoch


def plan_shards(plan: Plan, settings: PackSettings) -> list[PlannedShard]:
    """Shuffle each split once, by a hash of seed and key, and cut it into shards."""

    def rank(sample: RawSample) -> bytes:
        return hashlib.sha256(f"{settings.seed}:{sample.key}".encode()).digest()

    fixed = f"{FORMAT_VERSION}{json.dumps(asdict(settings), sort_keys=True)}"
    size = samples_per_shard(len(plan.samples), settings.samples_per_shard)
    shards = []
    for split in SPLITS:
        samples = sorted((s for s in plan.samples if s.split == split), key=rank)
        for number, at in enumerate(range(0, len(samples), size)):
            name, part = f"{split}/eyes-{number:06d}.tar", tuple(samples[at : at + size])
            content = [
                [s.key, [[eye, m.size] for eye, m in sorted(s.masks.items())], s.image.size]
                for s in part
            ]
            digest = hashlib.sha256(f"{name}{fixed}{json.dumps(content)}".encode()).hexdigest()
            modified = max(member.modified for sample in part for member in sample.members)
            shards.append(PlannedShard(name, part, digest, modified))
    return shards


def samples_per_shard(samples: int, most: int) -> int:
    """Return how many samples a shard of a set gets: fewer in small sets, to keep all cores busy.

    It depends on the set alone, and is a power of two, so that a few photographs more or less
    leave the shards as they are.
    """
    share = samples // _SHARDS
    return min(most, max(_LEAST, 1 << max(0, share.bit_length() - 1)))

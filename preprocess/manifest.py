"""The manifest of a pack: what was packed, from what, with which settings, and what was not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, astuple, dataclass, field, replace

from preprocess.celebamask import SPLITS, Dropped
from preprocess.errors import InputError, require
from preprocess.files import atomic_file, from_fields
from preprocess.mask import LABELS
from preprocess.shards import ShardRecord
from preprocess.storage import Place

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 2  # 2: samples say where their eyes are


@dataclass(frozen=True)
class PackSettings:
    """Everything that decides the bytes of a pack, apart from the source."""

    size: int = 256
    quality: int = 96
    subsampling: str = "444"  # chroma at half size blurs lids that are two pixels thick
    samples_per_shard: int = 1024
    seed: int = 0
    labels: dict[str, int] = field(default_factory=lambda: dict(LABELS))
    resampling: str = "DCT scale to 1x, else 2x and area; border repeated; masks keep their area"

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(16 <= self.size <= 4096, "--size", f"is {self.size}", "16 to 4096 pixels")
        require(self.size % 16 == 0, "--size", f"is {self.size}", "a multiple of 16")
        require(1 <= self.quality <= 100, "--quality", f"is {self.quality}", "1 to 100")
        most = self.samples_per_shard
        require(most >= 1, "--samples-per-shard", f"is {most}", ">= 1")


@dataclass(frozen=True)
class EyeCount:
    """Packed images by how many eyes their masks show.

    The subject's left eye lies on the viewer's left only in a mirrored photograph: the annotator
    of those in `swapped` may have meant the other eye.
    """

    two: int = 0
    one: int = 0
    none: int = 0
    merged: int = 0  # one mask for both eyes: their number cannot be told
    swapped: int = 0  # those of `two` whose l_eye lies on the viewer's left

    def __add__(self, other: EyeCount) -> EyeCount:
        """Add up, count by count."""
        return EyeCount(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class SplitRecord:
    """One split: its shards in order, and totals."""

    samples: int
    eyes: EyeCount
    shards: tuple[ShardRecord, ...]

    def __post_init__(self) -> None:
        """Check the total."""
        if self.samples != sum(shard.samples for shard in self.shards):
            raise ValueError(f"a split has {self.samples} samples, its shards others")


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``."""

    settings: PackSettings
    source: str
    fingerprint: str
    split_rule: str
    splits: dict[str, SplitRecord]
    dropped: tuple[Dropped, ...] = ()
    empty_masks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def samples(self) -> int:
        """Number of packed samples, all splits."""
        return sum(split.samples for split in self.splits.values())

    @property
    def eyes(self) -> EyeCount:
        """Images by number of eyes, all splits."""
        return sum((split.eyes for split in self.splits.values()), EyeCount())

    @property
    def shards(self) -> list[ShardRecord]:
        """All shards, split by split."""
        return [shard for split in self.splits.values() for shard in split.shards]

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def digest(self) -> str:
        """Identify the packed data: equal digests, equal shards."""
        return hashlib.sha256("".join(s.sha256 for s in self.shards).encode()).hexdigest()

    def save(self, root: Place) -> None:
        """Write ``manifest.json`` into the folder of the pack, whole or not at all."""
        with atomic_file(root / MANIFEST_FILE) as file:
            file.write(json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n")

    @classmethod
    def load(cls, root: Place) -> Manifest:
        """Read the manifest of a pack; an `InputError` if there is none of this version."""
        path = root / MANIFEST_FILE
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            remedy = "Pack first: `make shards`, or `python -m preprocess --data FOLDER`"
            raise InputError(path, "does not exist", remedy) from None
        try:
            content = json.loads(data)
            if content["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {content['format_version']}")
            loaded = from_fields(cls, content)
            if loaded.splits.keys() != set(SPLITS):
                raise ValueError(f"its splits are {sorted(loaded.splits)}")
            return replace(loaded, splits={name: loaded.splits[name] for name in SPLITS})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            remedy = "Pack again with --overwrite"
            raise InputError(path, f"cannot be read ({error})", remedy) from None

    def split(self, name: str) -> SplitRecord:
        """Return a split that has samples; an `InputError` if it has none."""
        record = self.splits.get(name)
        if record is None or not record.samples:
            there = ", ".join(f"{key} ({self.splits[key].samples})" for key in self.splits)
            raise InputError(f"split {name!r}", "holds no samples", f"The pack has: {there}")
        return record

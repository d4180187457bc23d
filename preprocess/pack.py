"""Pack a source into shards: plan, worker processes, one writer, report.

The plan fixes which samples go into which shard, in which order, before a picture is read;
workers turn samples into bytes; the parent writes them in order. So the bytes do not depend on
the number of workers, and a finished shard can be told from its plan alone after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from tqdm import tqdm

from preprocess.celebamask import EYES, SPLITS, Dropped, Plan, RawSample, read_plan
from preprocess.errors import DecodeError, InputError
from preprocess.image import decode_fitted
from preprocess.journal import (
    PlannedShard,
    ShardResult,
    append_journal,
    finished_shards,
    plan_shards,
    start_journal,
)
from preprocess.manifest import MANIFEST_FILE, EyeCount, Manifest, PackSettings, SplitRecord
from preprocess.mask import LABELS, decode_mask, encode_label, eye_centres, label_map
from preprocess.runtime import end_with_parent, keep_freed_memory, usable_cores
from preprocess.shards import index_path, write_shard

_CHUNK = 16  # samples a worker takes at once: some 40 ms of work


@dataclass(frozen=True)
class PackConfig:
    """What to pack, and where to.

    Attributes
    ----------
    source
        Folder or zip (see `preprocess.celebamask`).
    out
        Folder for the shards and their manifest.
    settings
        What decides the bytes.
    split
        Put everything into this split instead of following the source's rule.
    workers
        Processes; None takes one a core; 1 works in this process.
    overwrite
        As `update`; also redo shards that are damaged or that lack a sample.
    update
        Replace a pack of other photographs or settings in `out`; what is the same stays.
    """

    source: Path
    out: Path
    settings: PackSettings = field(default_factory=PackSettings)
    split: str | None = None
    workers: int | None = None
    overwrite: bool = False
    update: bool = False


@dataclass(frozen=True)
class PackReport:
    """What a run of `pack` did."""

    manifest: Manifest
    packed: int  # samples packed by this run; the rest was there already
    seconds: float


@dataclass(frozen=True)
class PackedSample:
    """The bytes of one sample (none where it was dropped, with the reason)."""

    key: str
    parts: dict[str, bytes]
    eyes: EyeCount = EyeCount()
    empty_masks: tuple[str, ...] = ()
    reason: str = ""


def pack(config: PackConfig) -> PackReport:
    """Pack every sample of the source; continue where an earlier run stopped.

    Raises
    ------
    InputError
        Where the source cannot be read, or `out` holds another pack and `update` is off.
    """
    started = time.perf_counter()
    plan = read_plan(config.source, config.split)
    shards = plan_shards(plan, config.settings)
    plan = replace(plan, samples=())  # kept by the shards, in a twentieth of the memory
    fingerprint = hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()
    _check_target(config, fingerprint)
    finished = finished_shards(config.out, shards, strict=config.overwrite)
    missing = [shard for shard in shards if shard.name not in finished]
    if missing:
        (config.out / MANIFEST_FILE).unlink(missing_ok=True)
        start_journal(config.out, finished)
    for shard, result in _pack_shards(config, missing):
        finished[shard.name] = result
        append_journal(config.out, result)
    manifest = _manifest(config, plan, fingerprint, shards, finished)
    if missing or not _is_saved(config.out, manifest):
        _remove_strays(config.out, manifest)
        manifest.save(config.out)
    packed = sum(finished[shard.name].shard.samples for shard in missing)
    return PackReport(manifest, packed, time.perf_counter() - started)


def pack_sample(source: Path, sample: RawSample, settings: PackSettings) -> PackedSample:
    """Read, fit and encode one sample; one that cannot be decoded comes back with the reason."""
    try:
        data = sample.image.read(source)
        square, geometry = decode_fitted(data, settings.size, sample.image.name)
        masks = {
            part: decode_mask(member.read(source), member.name)
            for part, member in sample.masks.items()
        }
    except DecodeError as error:
        return PackedSample(sample.key, {}, reason=f"{error.where}: {error.problem}")
    seen = {part: mask for part, mask in masks.items() if cv2.countNonZero(mask)}
    label = label_map(seen, geometry)
    meta = {
        "area": {part: int(np.count_nonzero(label == LABELS[part])) for part in sorted(seen)},
        "eyes": eye_centres(label),
        "geometry": asdict(geometry),
        "key": sample.key,
        "source": sample.image.name.rpartition("/")[2],
    }
    parts = {
        "jpg": simplejpeg.encode_jpeg(
            square,
            quality=settings.quality,
            colorspace="RGB",
            colorsubsampling=settings.subsampling,
        ),
        "json": json.dumps(meta, sort_keys=True, separators=(",", ":")).encode(),
        "png": encode_label(label),
    }
    empty = tuple(sorted(sample.masks[part].name for part in masks.keys() - seen.keys()))
    return PackedSample(sample.key, parts, _count_eyes(seen), empty if "eye" not in masks else ())


def _count_eyes(seen: dict[str, Any]) -> EyeCount:
    if "eye" in seen:
        return EyeCount(merged=1)
    eyes = len(seen.keys() & set(EYES))
    return EyeCount(two=int(eyes == 2), one=int(eyes == 1), none=int(eyes == 0))


def _is_saved(out: Path, manifest: Manifest) -> bool:
    try:
        return Manifest.load(out) == manifest
    except InputError:
        return False


def _check_target(config: PackConfig, fingerprint: str) -> None:
    if config.out.exists() and not config.out.is_dir():
        raise InputError(config.out, "is a file", "Give a folder as --out")
    path = config.out / MANIFEST_FILE
    if config.overwrite or config.update or not path.exists():
        return
    if Manifest.load(config.out).fingerprint != fingerprint:
        problem = "describes a pack of other photographs or other settings"
        raise InputError(path, problem, "Give another --out, or --update to pack what differs")


def _pack_shards(
    config: PackConfig, shards: list[PlannedShard]
) -> Iterator[tuple[PlannedShard, ShardResult]]:
    total = sum(shard.count for shard in shards)
    results = _pack_samples(config, (s for shard in shards for s in shard.samples), total)
    with tqdm(total=total, unit="img", desc="pack", disable=None, smoothing=0.05) as bar:
        for shard in shards:
            yield shard, _write_one(config.out, shard, results, bar)


def _write_one(
    out: Path, shard: PlannedShard, results: Iterator[PackedSample], bar: tqdm[Any]
) -> ShardResult:
    eyes = EyeCount()
    dropped: list[Dropped] = []
    empty: list[str] = []

    def kept() -> Iterator[tuple[str, dict[str, bytes]]]:
        nonlocal eyes
        for packed in islice(results, shard.count):
            bar.update()
            if packed.reason:
                dropped.append(Dropped(packed.key, packed.reason))
                continue
            eyes = eyes + packed.eyes
            empty.extend(packed.empty_masks)
            yield packed.key, packed.parts

    record = write_shard(out, shard.name, kept())
    if not record.samples:  # every sample dropped: readers need not meet an empty tar
        (out / record.name).unlink()
        index_path(out / record.name).unlink()
    return ShardResult(shard.digest, record, eyes, tuple(dropped), tuple(empty))


def _pack_samples(
    config: PackConfig, samples: Iterator[RawSample], total: int
) -> Iterator[PackedSample]:
    """Yield the packed samples in order, computed by worker processes some chunks ahead."""
    chunks = iter(lambda: list(islice(samples, _CHUNK)), [])
    workers = min(config.workers or usable_cores(), max(1, total // _CHUNK))
    if workers == 1:
        for chunk in chunks:
            yield from _pack_chunk(config.source, chunk, config.settings)
        return
    # spawn: a fork of a process with running threads (torch, DALI, OpenCV) can deadlock.
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    ahead: deque[Future[list[PackedSample]]] = deque()
    try:
        while True:
            for chunk in islice(chunks, 4 * workers - len(ahead)):
                ahead.append(executor.submit(_pack_chunk, config.source, chunk, config.settings))
            if not ahead:
                break
            yield from ahead.popleft().result()
    except BrokenProcessPool:
        remedy = "Finished shards are kept: run again, with fewer --workers if memory was short"
        raise InputError("pack", "a worker process was ended from outside", remedy) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells workers when to stop
    end_with_parent()
    keep_freed_memory()
    cv2.setNumThreads(1)


def _pack_chunk(
    source: Path, samples: list[RawSample], settings: PackSettings
) -> list[PackedSample]:
    return [pack_sample(source, sample, settings) for sample in samples]


def _manifest(
    config: PackConfig,
    plan: Plan,
    fingerprint: str,
    shards: list[PlannedShard],
    finished: dict[str, ShardResult],
) -> Manifest:
    splits = {}
    for split in SPLITS:
        results = [finished[shard.name] for shard in shards if shard.split == split]
        splits[split] = SplitRecord(
            sum(result.shard.samples for result in results),
            sum((result.eyes for result in results), EyeCount()),
            tuple(result.shard for result in results if result.shard.samples),
        )
    ordered = [finished[shard.name] for shard in shards]
    return Manifest(
        settings=config.settings,
        source=config.source.name,
        fingerprint=fingerprint,
        split_rule=plan.split_rule,
        splits=splits,
        dropped=plan.dropped + tuple(row for result in ordered for row in result.dropped),
        empty_masks=tuple(sorted(name for result in ordered for name in result.empty_masks)),
        notes=plan.notes,
    )


def _remove_strays(out: Path, manifest: Manifest) -> None:
    """Delete shards that the manifest does not list, and what a kill left half written."""
    listed = {out / shard.name for split in manifest.splits.values() for shard in split.shards}
    for split in SPLITS:
        for path in (out / split).glob("eyes-*.tar"):
            if path not in listed:
                path.unlink()
                index_path(path).unlink(missing_ok=True)
        for path in (out / split).glob(".eyes-*.tmp"):
            path.unlink(missing_ok=True)

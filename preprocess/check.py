"""Read every sample of a pack back, as training will, and hold it against the manifest."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from preprocess.errors import InputError
from preprocess.files import file_sha256
from preprocess.image import RGB, decode_rgb
from preprocess.manifest import Manifest
from preprocess.mask import LABELS, Mask, decode_label
from preprocess.runtime import dali_is_installed
from preprocess.shards import ShardIndex, ShardRecord, index_path, local_copy
from preprocess.storage import Place

# DALI and simplejpeg both decode by libjpeg-turbo; versions differ by rounding at most.
_PIXEL_TOLERANCE = 2


@dataclass(frozen=True)
class CheckReport:
    """Outcome of `check`."""

    samples: int
    readers: tuple[str, ...]
    faults: tuple[str, ...]


def check(root: Place) -> CheckReport:
    """Read every sample of every shard through DALI and through webdataset.

    Checked are: checksums of shards and indexes; keys in order and number; sizes and value range
    of images and label maps; eye areas against the sample's own JSON; both readers against each
    other, pixel by pixel. If DALI is not installed, `CheckReport.readers` says so.
    """
    manifest, with_dali = Manifest.load(root), dali_is_installed()
    size, faults = manifest.settings.size, []
    with tqdm(total=manifest.samples, unit="img", desc="check", disable=None) as bar:
        for shard in manifest.shards:
            with local_copy(root / shard.name) as path:
                found = _damage(path, shard.sha256) or _damage(index_path(path), shard.index_sha256)
                # Each step relies on what those before it found to be whole.
                found = found or _check_index(path, shard) or _check_samples(path, size)
                if with_dali and not found:
                    found = _check_dali(path, shard.samples)
            here, there = path.with_suffix(""), (root / shard.name).with_suffix("")
            faults += [fault.replace(str(here), str(there)) for fault in found]
            bar.update(shard.samples)
    readers = ("webdataset", "dali") if with_dali else ("webdataset",)
    return CheckReport(manifest.samples, readers, tuple(faults))


def _damage(path: Place, sha256: str) -> list[str]:
    if not path.exists():
        return [f"{path}: missing"]
    return [] if file_sha256(path) == sha256 else [f"{path}: sha256 differs from the manifest's"]


def _check_index(path: Path, shard: ShardRecord) -> list[str]:
    """Hold the index against the tar itself: DALI believes it, and would crash."""
    try:
        index = ShardIndex.read(path)
        entries = [index.entry(row) for row in range(len(index.lines))]
        with tarfile.open(path, "r:") as tar:
            members = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    except (InputError, tarfile.TarError, OSError, ValueError) as error:
        return [f"{path}: cannot be read ({error})"]
    if len(entries) != shard.samples:
        return [f"{path}: {len(entries)} samples read, {shard.samples} in the manifest"]
    parts = [component for entry in entries for component in entry.components]
    stated = [(name, offset, size) for _, offset, size, name in parts]
    kinds = ["jpg", "json", "png"] * len(entries)
    keys = {entry.key for entry in entries}
    if stated != members or [kind for kind, *_ in parts] != kinds or len(keys) != len(entries):
        return [f"{path}: its index does not list its samples"]
    return []


def _check_samples(path: Path, size: int) -> list[str]:
    faults = []
    for sample in _stream_samples(path):
        key = sample["__key__"]
        try:
            image, label = decode_rgb(sample["jpg"], key), decode_label(sample["png"], key)
            found = list(_faults(sample, image, label, size))
        except (
            InputError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            found = [f"cannot be read ({error})"]
        faults += [f"{path}, {key}: {fault}" for fault in found]
    return faults


def _check_dali(path: Path, count: int) -> list[str]:
    faults = []
    try:
        for sample, (image, label) in zip(
            _stream_samples(path), _dali_samples(path, count), strict=True
        ):
            key = sample["__key__"]
            ours = decode_rgb(sample["jpg"], key).astype(np.int16)
            difference = np.abs(ours - image).max()
            same = np.array_equal(decode_label(sample["png"], key), label)
            if difference > _PIXEL_TOLERANCE or not same:
                faults.append(f"{path}, {key}: DALI decodes other pixels (by {difference} levels)")
    except RuntimeError as error:
        faults.append(f"{path}: DALI cannot read it ({str(error).splitlines()[0]})")
    return faults


def _stream_samples(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield webdataset's samples: ``__key__`` and the bytes of each component by extension.

    Any failure is raised, never skipped. (`webdataset.WebDataset` does the same on a list of
    URLs, but leaves closing the files to the garbage collector.)
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with shard.open("rb") as file:
        yield from group_by_keys(tar_file_expander([{"url": str(shard), "stream": file}]))


def _faults(sample: dict[str, Any], image: RGB, label: Mask, size: int) -> Iterator[str]:
    if image.shape != (size, size, 3):
        yield f"image is {image.shape}, expected {(size, size, 3)}"
    if label.shape != (size, size):
        yield f"label map is {label.shape}, expected {(size, size)}"
    if unknown := set(np.unique(label).tolist()) - set(LABELS.values()):
        yield f"label map holds levels {sorted(unknown)}"
    noted = json.loads(sample["json"])["area"]
    for part, level in LABELS.items():
        area = noted.get(part, 0)
        if level and int((label == level).sum()) != area:
            yield f"{part} covers another area than the {area} pixels noted when packing"


def _dali_samples(path: Path, count: int) -> Iterator[tuple[Any, Any]]:
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline

    batch = min(64, count)
    pipeline = Pipeline(batch_size=batch, num_threads=2, device_id=None)
    with pipeline:
        components: Any = fn.readers.webdataset(
            paths=[str(path)],
            index_paths=[str(index_path(path))],
            ext=["jpg", "png"],
            missing_component_behavior="error",
        )
        jpg, png = components
        image = fn.decoders.image(jpg, device="cpu", jpeg_fancy_upsampling=True)
        pipeline.set_outputs(image, fn.decoders.image(png, device="cpu", output_type=types.GRAY))
    pipeline.build()
    for first in range(0, count, batch):
        images, labels = pipeline.run()
        for number in range(min(batch, count - first)):
            yield images.at(number), labels.at(number)[..., 0]

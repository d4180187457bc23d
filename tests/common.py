"""What the tests of several modules do: read packs, build runs, call commands."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from preprocess.manifest import Manifest
from preprocess.mask import Mask, decode_label
from preprocess.shards import read_samples, write_shard
from train.checkpoint import Checkpoint
from train.config import AugmentConfig, ModelConfig, TrainConfig

Parts = dict[str, bytes]
Patch = pytest.MonkeyPatch
IMAGES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "train"]


def call(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)


def python(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with variables added to the environment as `env`."""
    options = {"text": True, "capture_output": True, "timeout": 300} | options
    environment = os.environ | options.pop("env", {})
    return subprocess.run([sys.executable, *map(str, words)], env=environment, **options)


LOADS = """
import sys
from {}.cli import main
try: main(sys.argv[1:])
except SystemExit as end: assert not end.code
print(*sys.modules)
"""


def loaded(package: str, *words: object) -> set[str]:
    """Run a command in a process of its own; return the modules that it has loaded at the end."""
    done = python("-c", LOADS.format(package), *words)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def flat(*photos: Path) -> dict[Path, Path]:
    """Return photographs as `find_photos` does, none of them from a subfolder."""
    return dict.fromkeys(photos, Path())


def fails(done: Result, *parts: str) -> None:
    """Assert exit code 2 and one line on stderr that has these parts, and no traceback."""
    assert done.exit_code == 2, done.output
    (line,) = (row for row in done.stderr.splitlines() if not row.startswith("process tuning"))
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def files(root: Path, *kinds: str) -> dict[str, bytes]:
    """Return what a pack is made of, or its files with these endings, by relative path."""
    kinds = kinds or (".tar", ".idx", ".json", ".tmp")
    found = (path for path in root.rglob("*") if path.suffix in kinds)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def labels(root: Path) -> dict[str, Mask]:
    """Return the label maps of a pack by key, in the order of its shards."""
    shards = (s for split in Manifest.load(root).splits.values() for s in split.shards)
    pairs = (pair for shard in shards for pair in read_samples(root / shard.name))
    return {key: decode_label(parts["png"], key) for key, parts in pairs}


def forge(root: Path, name: str, row: int, change: Callable[[Parts], Parts]) -> str:
    """Change a sample of a train shard and make all checksums fit; return its key."""
    samples = list(read_samples(root / name))
    key, parts = samples[row]
    samples[row] = key, change(parts)
    record, manifest = write_shard(root, name, samples), Manifest.load(root)
    train = manifest.splits["train"]
    shards = tuple(record if shard.name == name else shard for shard in train.shards)
    splits = manifest.splits | {"train": replace(train, shards=shards)}
    replace(manifest, splits=splits).save(root)
    return key


def flip(path: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def tiny(shards: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a short run of a small network; in four epochs it learns a little."""
    base = TrainConfig(
        shards, output, epochs=2, batch=2, lr=1e-2, loader="portable", model=ModelConfig(8, 3),
        augment=AugmentConfig().with_changes(("off", "flip=0.5:1", "light=0.5:0.2")),
    )  # fmt: skip
    return replace(base, **changes)


def weights(path: Path) -> dict[str, torch.Tensor]:
    stored = Checkpoint.load(path)
    raw = stored.training.get("model", {})
    return {**stored.weights, **{f"raw.{name}": value for name, value in raw.items()}}


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        levels = np.asarray(picture)
    assert set(np.unique(levels).tolist()) <= {0, 255}
    return levels > 0


def blobs(count: int = 4, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise with bright blobs, as a batch for the network, and where they are."""
    generator = torch.Generator().manual_seed(0)
    images = 40 + 60 * torch.rand((count, 3, side, side), generator=generator)
    masks = torch.zeros(count, 1, side, side)
    for row in range(count):
        y, x = (4 + 6 * row) % (side - 12), (8 + 11 * row) % (side - 20)
        masks[row, :, y : y + 8, x : x + 16] = 1
    return (images + 90 * masks).contiguous(memory_format=torch.channels_last), masks

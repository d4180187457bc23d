"""What the tests of several modules do: read packs, build runs, call commands."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from preprocess.files import from_fields
from preprocess.manifest import Manifest
from preprocess.mask import Mask, decode_label
from preprocess.pack import PackedShard
from preprocess.shards import ShardIndex, ShardRecord, read_samples, writing
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_files
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.run_folder import read_run

ROOT = Path(__file__).resolve().parents[1]
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


def write_shard(root: Path, name: str, samples: Iterable[tuple[str, Parts]]) -> ShardRecord:
    """Write a shard as packing does."""
    with writing(root / name) as add:
        for key, parts in samples:
            add(key, parts)
    return ShardRecord.of(root, name)


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


def limited(code: str, *words: object, megabytes: int = 2000) -> str:
    """Run Python code in a process with so much memory at most; return what it prints."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2)\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + code, *map(str, words)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    data = kind + body
    return struct.pack(">I", len(body)) + data + struct.pack(">I", zlib.crc32(data))


def zeros(size: int, *, raw: bool = False) -> bytes:
    """Deflate many zeros without ever holding them: one flushed block, again and again."""
    block = 1 << 24
    packer = zlib.compressobj(9, wbits=-15)
    part = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, wbits=-15)
    stream = part * (size // block) + rest.compress(bytes(size % block)) + rest.flush()
    sums = struct.pack(">I", ((size % 65521) << 16) + 1)  # Adler-32 of zeros
    return stream if raw else b"\x78\xda" + stream + sums


def blank_png(width: int, height: int, colour: int, claimed: int = 0) -> bytes:
    """Return an 8-bit PNG without content; it may claim another side."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    head = struct.pack(">IIBBBBB", claimed or width, claimed or height, 8, colour, 0, 0, 0)
    body = zeros(height * (1 + width * channels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def flip(path: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def tiny(shards: Path | tuple[Path, ...], output: Path, **changes: Any) -> TrainConfig:
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


def assert_same_run(one: Path, other: Path) -> None:
    """Compare models, the last checkpoints, and the figures of all epochs."""
    assert_same(one / MODEL_FILE, other / MODEL_FILE)
    assert_same(epoch_files(one)[-1], epoch_files(other)[-1])
    figures = ("epoch", "loss", "val_loss", "val_f1", "lr")
    histories = ([[getattr(row, name) for name in figures] for row in read_run(output)[1]]
                 for output in (one, other))  # fmt: skip
    assert next(histories) == next(histories)


def assert_whole(out: Path) -> None:
    """Assert that each file of a pack or run is what its name says, and records are true."""
    for path in out.rglob("[!.]*.*"):
        if path.name.startswith("eyes-") and path.suffix == ".json":
            shard = from_fields(PackedShard, json.loads(path.read_bytes())).shard
            assert ShardRecord.of(out, shard.name) == shard
        elif path.name == "manifest.json":
            assert all(ShardRecord.of(out, s.name) == s for s in Manifest.load(out).shards)
        elif path.suffix == ".tar":
            assert path.read_bytes().endswith(bytes(1024)), path
            with tarfile.open(path) as tar:
                assert tar.getmembers()
        elif path.suffix == ".idx":
            assert ShardIndex.read(path.with_suffix(".tar")).entry(0)
        elif path.suffix == ".pth":
            assert Checkpoint.load(path).epoch
        elif path.suffix == ".png":
            Image.open(path).load()
        else:
            text = path.read_text()
            assert all(map(json.loads, text.splitlines() if path.suffix == ".jsonl" else [text]))


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


def write_clip(
    path: Path, picture: npt.NDArray[np.uint8], *, frames: int = 20, width: int = 320,
    height: int = 240, sound: bool = True, coding: str = "aac", layout: str = "fltp",
) -> None:  # fmt: skip
    """Pan over a picture, ten frames a second, with a tone."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream(coding, rate=44100) if sound else None
        for number in range(frames):
            part = picture[40 : 40 + height, 20 + 2 * number :]
            frame = np.ascontiguousarray(part[:, :width])
            for packet in video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in video.encode():
            container.mux(packet)
        if audio:
            samples = np.sin(np.arange(frames * 4410) * 0.06).astype(np.float32)
            for at in range(0, len(samples) - 1024, 1024):
                part = samples[None, at : at + 1024]
                part = part if layout == "fltp" else (part * 30000).astype(np.int16)
                tone = av.AudioFrame.from_ndarray(part, layout, "mono")
                tone.sample_rate, tone.pts, tone.time_base = 44100, at, Fraction(1, 44100)
                for packet in audio.encode(tone):
                    container.mux(packet)
            for packet in audio.encode():
                container.mux(packet)


class Blind:
    """A network that sees nothing, at once."""

    size, stride, threshold = 32, 32, 0.5

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.zeros(images.shape[:3], np.float32)

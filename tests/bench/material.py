"""What benchmarks work on: photographs in the official layout, and packs of them.

A JPEG of few bits is easy to decode, and one of white grain is dear. So the drawn faces lose their
grain, and noise whose amplitude falls with frequency as in natural pictures (1/f) is laid over each
until its file is as large as one of CelebA-HQ: 105 to 195 KB at 1024 x 1024, quality 90, 4:2:0.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from PIL import Image

from preprocess.celebamask import EYES, IMAGE_FOLDER, MAPPING_FILE, MASK_FOLDER, read_plan
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, PackReport, pack
from preprocess.sample import SampleConfig, write_sample

SIDE, MASK_SIDE = 1024, 512
SIZE, BATCH = 256, 16  # of a packed picture; of a step
SMALLEST, LARGEST, STRONGEST = 110_000, 190_000, 24.0  # bytes of a file; levels of noise
ORIGINAL = {"train": 0, "val": 162_770, "test": 182_637}  # an orig_idx of each official split


def lay_out(folder: Path, count: int, data: Path | None) -> str:
    """Fill a folder with photographs that all show two eyes, of `data` or made up; describe them.

    They are numbered from 0, in the official layout.
    """
    source = data or folder.with_name("drawn")
    if not data:
        write_sample(source, SampleConfig(count * 5 // 4 + 8, 1, SIDE, MASK_SIDE))
    both = [sample for sample in read_plan(source).samples if len(sample.masks) == len(EYES)]
    if len(both) < count:
        raise click.ClickException(f"{source.name} has {len(both)} photographs with two eyes")
    sizes = []
    for number, sample in enumerate(both[:count]):
        jpeg = sample.image.read(source)
        jpeg = _scaled_up(jpeg) if data else _textured(jpeg, np.random.default_rng((7, number)))
        masks = {part: _checked(member.read(source)) for part, member in sample.masks.items()}
        sizes.append(len(jpeg) / 1e3)
        for path, content in zip(_paths(folder, number, masks), (jpeg, *masks.values()),
                                 strict=True):  # fmt: skip
            path.write_bytes(content)
    kind = "made-up photographs (drawn faces under noise of natural statistics)"
    if data:
        kind = f"photographs of {data.name}, scaled up (bicubic, quality 90) where they are smaller"
    return (
        f"{count} {kind}, {SIDE} x {SIDE}, {min(sizes):.0f} to {max(sizes):.0f} KB (median "
        f"{np.median(sizes):.0f}); two masks each, {MASK_SIDE} x {MASK_SIDE} RGB PNG"
    )


def repeat(source: Path, out: Path, counts: Mapping[str, int]) -> None:
    """Lay out so many samples of each split, again and again under other numbers.

    All but the first are hard links. If a single split is asked for, it gets all of the source.
    """
    plan = read_plan(source, next(iter(counts)) if len(counts) == 1 else None)
    numbers, lines = itertools.count(), []
    for split, count in counts.items():
        samples = [sample for sample in plan.samples if sample.split == split]
        for at, number in zip(range(count), numbers, strict=False):
            sample = samples[at % len(samples)]
            paths = _paths(out, number, sample.masks)
            if at < len(samples):
                for path, member in zip(paths, (sample.image, *sample.masks.values()), strict=True):
                    path.write_bytes(member.read(source))
            else:
                for path, first in zip(paths, _paths(out, number - len(samples), sample.masks),
                                       strict=True):  # fmt: skip
                    path.hardlink_to(first)
            lines.append(f"{number} {ORIGINAL[split]} {number}.jpg\n")
    (out / MAPPING_FILE).write_text("".join(lines))


def pack_all(
    source: Path, out: Path, split: str | None = None, samples_per_shard: int = 1024, **more: Any
) -> PackReport:
    """Pack photographs at the size that benchmarks work with."""
    settings = PackSettings(size=SIZE, samples_per_shard=samples_per_shard)
    return pack(PackConfig(source, out, settings, split=split, **more))


def write_files(split: Any, folder: Path) -> None:
    """Write the very bytes of a split as files, KEY.jpg and KEY.png."""
    folder.mkdir(parents=True)
    for rows in split.in_order(BATCH):
        for key, sample in zip(split.keys(rows), split.read(rows), strict=True):
            (folder / f"{key}.jpg").write_bytes(sample.jpg)
            (folder / f"{key}.png").write_bytes(sample.png)


def shown(config: Any, split: Any, loader: Any) -> Iterator[Any]:
    """Yield what training shows the network, epoch after epoch: augmented images and masks."""
    from train.loop import _View

    for epoch in itertools.count():
        view = _View(config, split, epoch, slice(0, config.batch))
        for number, batch in enumerate(loader.batches(view.order)):
            yield view(batch, number)


def _paths(folder: Path, number: int, parts: Mapping[str, Any]) -> list[Path]:
    """Return where a photograph and its masks are, in folders that exist."""
    images, masks = folder / IMAGE_FOLDER, folder / MASK_FOLDER / str(number // 2000)
    if number % 2000 == 0:
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
    return [images / f"{number}.jpg", *(masks / f"{number:05d}_{part}.png" for part in parts)]


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _checked(mask: bytes) -> bytes:
    """Return a mask as Pillow saves it, if it is as those of CelebAMask-HQ."""
    with Image.open(io.BytesIO(mask)) as picture:
        if (picture.size, picture.mode) != ((MASK_SIDE, MASK_SIDE), "RGB"):
            raise click.ClickException(f"a mask is {picture.size} {picture.mode}")
        return _saved(picture, "PNG")


def _scaled_up(jpeg: bytes) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.size == (SIDE, SIDE):
            return jpeg
        large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return _saved(large, "JPEG", quality=90)


def _textured(jpeg: bytes, rng: np.random.Generator) -> bytes:
    """Lay 1/f noise over a picture, as much as brings its JPEG to a natural size."""
    wanted = rng.uniform(SMALLEST, LARGEST)
    with Image.open(io.BytesIO(jpeg)) as picture:  # the drawn grain is finer than nature's
        image = cv2.GaussianBlur(np.asarray(picture.convert("RGB")), (0, 0), 1.2)
    tile = np.roll(_natural_noise(), tuple(rng.integers(0, SIDE, 2)), (0, 1))[..., None]
    low, high, best = 0.0, STRONGEST, b""
    for _ in range(7):
        strength = (low + high) / 2
        levels = np.clip(image + strength * tile + 0.5, 0, 255).astype(np.uint8)
        best = _saved(Image.fromarray(levels), "JPEG", quality=90)
        low, high = (strength, high) if len(best) < wanted else (low, strength)
    return best


@lru_cache(maxsize=1)
def _natural_noise() -> Any:
    """Return noise of amplitude 1/f, (SIDE, SIDE) float32 of mean 0 and deviation 1."""
    white = np.fft.rfft2(np.random.default_rng(5).standard_normal((SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(white / frequency, (SIDE, SIDE))
    return np.asarray(noise / noise.std(), np.float32)

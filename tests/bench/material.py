"""What benchmarks work on: photographs in the official layout, and packs of them."""

import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from preprocess.celebamask import EYES, IMAGE_FOLDER, MAPPING_FILE, MASK_FOLDER, read_plan
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, PackReport, pack
from preprocess.sample import SampleConfig, write_sample

SIDE, MASK_SIDE = 1024, 512
SIZE, BATCH = 256, 16  # of a packed picture; of a step
ORIGINAL = {"train": 0, "val": 162_770, "test": 182_637}  # an orig_idx of each official split


def lay_out(folder: Path, count: int, data: Path | None) -> str:
    """Fill a folder with photographs that all show two eyes, of `data` or drawn; describe them.

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
        jpeg = _scaled_up(sample.image.read(source))
        masks = {part: _checked(member.read(source)) for part, member in sample.masks.items()}
        sizes.append(len(jpeg) / 1e3)
        for path, content in zip(_paths(folder, number, masks), (jpeg, *masks.values()),
                                 strict=True):  # fmt: skip
            path.write_bytes(content)
    kind = (
        f"photographs of {data.name}, scaled up where they are smaller" if data else "drawn faces"
    )
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


def loaded(split: Any, loader: Any, size: int) -> Iterator[Any]:
    """Yield the batches of training, epoch after epoch, as they come from the loader."""
    for epoch in itertools.count():
        order = list(split.shuffled(size, 0, epoch))
        for rows, batch in zip(order, loader.batches(order), strict=True):
            split.eyes(rows)  # as training asks for them
            yield batch


def shown(config: Any, split: Any, loader: Any) -> Iterator[Any]:
    """Yield what training shows the network, epoch after epoch: augmented images and masks."""
    from train.augment import AugmentedEpoch

    for epoch in itertools.count():
        view = AugmentedEpoch(config, split, epoch, slice(0, config.batch))
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

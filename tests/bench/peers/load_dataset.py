"""torch's own Dataset and DataLoader, over originals (`--over originals`) or packed files.

Advice followed: https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html (workers),
https://docs.pytorch.org/docs/stable/data.html (persistent workers).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
import torch
from measure import Batch, Pair
from PIL import Image
from torch.utils.data import DataLoader, Dataset

EYES = ("l_eye", "r_eye")


class Originals(Dataset):
    """Photographs of 1024 x 1024 with a PNG an eye, the way a first script reads them."""

    def __init__(self, data: Path) -> None:
        self.images = sorted((data / "originals" / "CelebA-HQ-img").glob("*.jpg"))
        self.masks = data / "originals" / "CelebAMask-HQ-mask-anno" / "0"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Batch:
        path, size = self.images[number], (measure.SIZE, measure.SIZE)
        with Image.open(path) as picture:
            image = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        union = None
        for eye in EYES:
            with Image.open(self.masks / f"{int(path.stem):05d}_{eye}.png") as part:
                levels = np.asarray(part.convert("L"))
            union = levels if union is None else union | levels
        mask = Image.fromarray(union).resize(size, Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(image)), torch.from_numpy(np.array(mask))


class Files(Dataset):
    """The packed pictures as files."""

    def __init__(self, data: Path, decoder: str) -> None:
        self.images = sorted((data / "files").glob("*.jpg"))
        self.decode = measure.DECODERS[decoder]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Pair:
        path = self.images[number]
        return self.decode(path.read_bytes(), path.with_suffix(".png").read_bytes())


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--over", choices=("originals", "files"), default="files")
    options = parser.parse_args()
    settings = {
        "batch_size": measure.BATCH, "shuffle": True, "drop_last": True,
        "num_workers": options.workers, "persistent_workers": options.workers > 0,
    }  # fmt: skip
    if options.over == "originals":
        plain = DataLoader(Originals(options.data), **settings)
        measure.measure(lambda epoch: iter(plain), options.least)
        return
    files = Files(options.data, options.decoder)
    loader = DataLoader(files, collate_fn=measure.stack, **settings)

    def epoch(number: int) -> Iterator[Batch]:
        return iter(loader)

    measure.measure(epoch, options.least)


if __name__ == "__main__":
    main()

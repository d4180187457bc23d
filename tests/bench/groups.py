"""Figures of a model by group of photographs: `python tests/bench/groups.py --data CelebAMask-HQ`.

Groups are told from the data set itself: glasses have a mask of their own (`eye_g`), the rest is
measured on truth and photograph. Thirds are thirds of this split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--data", type=PATH, help="CelebAMask-HQ, for the masks of glasses.")
@click.option("--shards", type=PATH, required=True)
@click.option("--split", default="test")
@click.option("--model", type=PATH, default=Path("infer/weights/eyes.safetensors"))
def main(data: Path | None, shards: Path, split: str, model: Path) -> None:
    """Print F1 and mean IoU of each group."""
    import numpy as np
    import torch

    from preprocess.mask import eye_boxes
    from train.augment import plain
    from train.evaluate import evaluate_checkpoint, in_order
    from train.metrics import image_iou, metrics_of, pixel_counts

    run = evaluate_checkpoint(model, shards, split)
    glasses = {p.name[:5] for p in data.rglob("*_eye_g.png")} if data else set()
    counts, rows = [], []
    with torch.inference_mode():
        for batch in in_order(run.loader):
            images, truth = plain(batch.images, batch.masks)
            counts.append(pixel_counts(run.model(images), truth, run.checkpoint.threshold))
            for key, rgb, mask in zip(
                run.loader.split.keys(batch.rows), batch.images.cpu().numpy(),
                batch.masks.cpu().numpy(), strict=True,
            ):  # fmt: skip
                boxes = eye_boxes(mask)
                around = rgb[mask.any(axis=1)] if boxes else rgb
                rows.append({
                    "key": key, "eyes": len(boxes),
                    "width": max((w for *_, w, _ in boxes), default=np.nan),
                    "openness": np.mean([h / w for *_, w, h in boxes]) if boxes else np.nan,
                    "light": float(around.mean()),
                })  # fmt: skip
    table = torch.cat(counts)

    def show(name: str, chosen: Any) -> None:
        part = table[torch.from_numpy(np.asarray(chosen))]
        if len(part):
            figures = metrics_of(part)
            print(f"{name:<34}{len(part):>6}{figures.f1:>9.4f}{figures.mean_iou:>10.4f}"
                  f"{float(image_iou(part).min()):>9.3f}")  # fmt: skip

    print(f"{'group':<34}{'n':>6}{'F1':>9}{'mean IoU':>10}{'lowest':>9}")
    show("all", [True] * len(rows))
    if data:
        show("glasses", [row["key"] in glasses for row in rows])
        show("no glasses", [row["key"] not in glasses for row in rows])
    for count in (0, 1, 2):
        show(f"{count} eyes visible", [row["eyes"] == count for row in rows])
    for name, low, high in (
        ("width", "small eyes", "large eyes"),
        ("openness", "narrow eyes", "wide open eyes"),
        ("light", "dark around the eyes", "light around the eyes"),
    ):
        values = np.array([row[name] for row in rows], float)
        first, second = np.nanquantile(values, [1 / 3, 2 / 3])
        unit = " px" if name == "width" else ""
        show(f"{low} (to {first:.3g}{unit})", values <= first)
        show(f"between ({first:.3g} to {second:.3g}{unit})", (values > first) & (values <= second))
        show(f"{high} (over {second:.3g}{unit})", values > second)


if __name__ == "__main__":
    main()

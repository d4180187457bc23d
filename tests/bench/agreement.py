"""Does a photograph get the same mask as its packed sample? IoU over a split.

    python tests/bench/agreement.py --data CelebAMask-HQ --shards shards/CelebAMask-HQ-256

Once from the original file through `infer`'s array interface (full decode), once from the JPEG in
the shard; both masks at the photograph's own size.
"""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--data", type=PATH, required=True)
@click.option("--shards", type=PATH, required=True)
@click.option("--split", default="val")
@click.option("--model", type=PATH, default=Path("infer/weights/eyes.safetensors"))
def main(data: Path, shards: Path, split: str, model: Path) -> None:
    """Print pooled, mean and lowest IoU."""
    import numpy as np

    from infer import Predictor
    from preprocess.celebamask import read_plan
    from preprocess.image import Geometry, decode_rgb
    from preprocess.manifest import Manifest
    from preprocess.shards import read_samples

    predictor = Predictor.from_checkpoint(model)
    originals = {sample.key: sample.image for sample in read_plan(data).samples}
    hits, unions = [], []
    for shard in Manifest.load(shards).split(split).shards:
        for key, parts in read_samples(shards / shard.name):
            rgb = decode_rgb(originals[key].read(data), key)
            original = predictor.predict(rgb, "whole").mask
            (plane,) = predictor.probabilities([decode_rgb(parts["jpg"], key)])
            geometry = Geometry.fit(rgb.shape[0], rgb.shape[1], predictor.spec.size)
            packed = geometry.restore(plane) >= predictor.threshold
            hits.append(int((original & packed).sum()))
            unions.append(int((original | packed).sum()))
    iou = np.array([hit / union if union else 1.0 for hit, union in zip(hits, unions, strict=True)])
    print(
        f"{split}: {len(iou)} photographs, IoU pooled {sum(hits) / max(1, sum(unions)):.4f}, "
        f"mean {iou.mean():.4f}, lowest {iou.min():.4f}, under 0.98: {(iou < 0.98).sum()}"
    )


if __name__ == "__main__":
    main()

"""What a person wants to see of a pack: a summary in words and a grid of samples."""

from __future__ import annotations

from itertools import islice

from preprocess.errors import InputError
from preprocess.grid import close_up, grid, outline, save_png
from preprocess.image import decode_rgb
from preprocess.manifest import Manifest
from preprocess.mask import decode_label
from preprocess.pack import PackReport
from preprocess.shards import read_samples
from preprocess.storage import Place

_LISTED = 10  # rows of dropped samples that the summary prints; the manifest has all


def summary(root: Place, report: PackReport) -> str:
    """Describe a run of `pack` in a few lines."""
    manifest, eyes = report.manifest, report.manifest.eyes
    splits = ", ".join(f"{record.samples} {name}" for name, record in manifest.splits.items())
    lines = [f"{root}: {manifest.samples} samples ({splits}), {manifest.bytes / 1e6:.1f} MB"]
    if report.packed:
        rate = report.packed / report.seconds
        lines.append(f"packed {report.packed} in {report.seconds:.1f} s ({rate:.0f} images/s)")
    else:
        lines.append("up to date, nothing to pack")
    if eyes.merged:
        lines.append(f"eyes: {eyes.merged} images with one mask for both")
    else:
        lines.append(
            f"eyes: {eyes.two} images with two, {eyes.one} with one, {eyes.none} with none"
        )
        if eyes.swapped:
            lines.append(f"suspect: {eyes.swapped} of {eyes.two} have l_eye on the viewer's left")
    lines += [f"note: {note}" for note in manifest.notes]
    if manifest.empty_masks:
        lines.append(
            f"suspect: {len(manifest.empty_masks)} mask files without content, taken as 'not "
            f"visible': {', '.join(manifest.empty_masks[:_LISTED])}"
        )
    lines.append(f"dropped: {len(manifest.dropped)}")
    lines += [f"  {row.key}: {row.reason}" for row in manifest.dropped[:_LISTED]]
    if len(manifest.dropped) > _LISTED:
        lines.append(f"  ... all are listed in {root / 'manifest.json'}")
    return "\n".join(lines)


def save_preview(root: Place, path: Place, split: str = "", count: int = 16) -> None:
    """Save a grid of close-ups of samples: packed image, and the same with the label's outline."""
    manifest = Manifest.load(root)
    shards = manifest.split(split).shards if split else manifest.shards
    if not shards:
        raise InputError(root, "holds no samples", "See its manifest for what was dropped")
    pictures, captions = [], []
    samples = (pair for shard in shards for pair in read_samples(root / shard.name))
    for key, parts in islice(samples, count):
        image, label = (
            decode_rgb(parts.get("jpg", b""), key), decode_label(parts.get("png", b""), key)
        )  # fmt: skip
        if image.shape[:2] != label.shape:
            problem = f"image is {image.shape}, its label map {label.shape}"
            raise InputError(f"{root}, sample {key}", problem, "Pack again with --overwrite")
        near, marked = close_up(label, image, label)
        pictures += [near, outline(near, marked)]
        captions += [key, "its label's outline"]
    save_png(grid(pictures, 4, captions), path)

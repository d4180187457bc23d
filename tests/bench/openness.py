"""Openness of eyes against that of their outlines.

    python tests/bench/openness.py --data path/to/CelebAMask-HQ --data path/to/wild-faces \\
        --data path/to/london-faces --out docs/benchmarks

Photographs of val and test, the largest face of each; and from every split those whose mask is
empty: their eyes are closed or hidden. An eye that is not marked has an openness of 0.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import contest
import numpy as np
import page

from infer import Predictor, eyes
from infer.eyes import measure_eyes
from preprocess.celebamask import read_plan
from preprocess.image import decode_rgb
from preprocess.mask import decode_mask

BANDS = (0.0, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 1.0)
CLOSED = (0.1, 0.15, 0.2, 0.25)  # thresholds that are tried


@click.command(help=__doc__)
@click.option("--data", type=contest.PATH, required=True, multiple=True)
@click.option("--model", type=contest.PATH, help="[default: the bundled weights]")
@contest.OUT
def main(data: tuple[Path, ...], model: Path | None, out: Path) -> None:
    """Print tables; write OUT/openness.png."""
    predictor, pairs = Predictor.from_checkpoint(model), {}
    rule, eyes.CLOSED = eyes.CLOSED, 0.0  # what is asked is which value is right
    for root in data:
        pairs[root.name] = np.array([pair for pair in compare(root, predictor)])
        click.echo(f"{root.name}: {len(pairs[root.name])} eyes", err=True)
    table = np.concatenate(list(pairs.values()))
    truth, found = table.T
    both = (truth > 0) & (found > 0)
    error, fit = np.abs(truth - found)[both].mean(), np.corrcoef(truth[both], found[both])[0, 1]
    click.echo(f"{both.sum()} eyes: mean difference {error:.3f}, correlation {fit:.3f}\n")
    head = ("openness of the outline", "eyes", "not marked", "median", "middle 80 %")
    click.echo(page.markdown(head, by_band(truth, found)))
    rows = [
        (f"{limit:g}", share(found[truth == 0] < limit), share(found[truth > limit] < limit))
        for limit in CLOSED
    ]
    head = (
        "closed if under",
        "eyes without an outline under it",
        "eyes that are more open under it",
    )
    click.echo("\n" + page.markdown(head, rows))
    plot(pairs, rule, out / "openness.png")


def compare(root: Path, predictor: Predictor) -> list[tuple[float, float]]:
    """Return, for each eye, the openness of the outline and of the prediction."""
    pairs, plan = [], read_plan(root)
    for sample in plan.samples:
        masks = [decode_mask(mask.read(root)) > 0 for mask in sample.masks.values()]
        if not masks or (sample.split == "train" and any(mask.any() for mask in masks)):
            continue
        rgb, truth = decode_rgb(sample.image.read(root)), np.any(masks, axis=0)
        looks = predictor.look(rgb, 1)
        predictor.see(rgb, looks)
        frame = looks[0].frame
        if looks[0].face is None or frame is None or truth.shape != rgb.shape[:2]:
            continue
        faces = predictor.assemble(rgb.shape, looks, 1, rgb).faces
        seen = {eye.side: eye.openness for face in faces for eye in face.eyes}
        outlined = measure_eyes(truth.astype(np.float32), 0.5, (0, 0), frame)
        drawn = {eye.side: eye.openness for eye in outlined}
        sides = ("right", "left") if len(drawn) != 1 else tuple(drawn)  # one may be out of sight
        pairs += [(drawn.get(side, 0.0), seen.get(side, 0.0)) for side in sides]
    return pairs


def by_band(truth: np.ndarray, found: np.ndarray) -> Sequence[tuple[str, ...]]:
    """Return a row for closed eyes, and for each band of openness."""
    bands = [("no eye", truth == 0)]
    bands += [(f"{low:g} to {high:g}", (truth > low) & (truth <= high))
              for low, high in zip(BANDS, BANDS[1:], strict=False)]  # fmt: skip
    rows = []
    for name, chosen in bands:
        there = found[chosen]
        if len(there):
            low, middle, high = np.quantile(there, [0.1, 0.5, 0.9])
            rows.append((name, str(len(there)), str((there == 0).sum()), f"{middle:.2f}",
                         f"{low:.2f} to {high:.2f}"))  # fmt: skip
    return rows


def share(chosen: np.ndarray) -> str:
    """Write how many of how many."""
    return f"{chosen.sum()} of {len(chosen)}"


def plot(pairs: dict[str, np.ndarray], rule: float, out: Path) -> None:
    """Draw each eye, a colour for each set, and the rule for closed ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 0.7], [0, 0.7], color="0.6", linewidth=1)
    axes.axhline(rule, color="0.6", linewidth=1, linestyle=":")
    axes.text(0.69, rule, "closed below", ha="right", va="top", color="0.4")
    for name, table in pairs.items():
        axes.scatter(*table.T, s=14, alpha=0.5, label=name, linewidths=0)
    axes.set(xlim=(-0.02, 0.7), ylim=(-0.02, 0.7), aspect="equal",
             xlabel="openness of the outline (0: no eye)",
             ylabel="openness of the prediction (0: not marked)")  # fmt: skip
    axes.legend(loc="upper left")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()

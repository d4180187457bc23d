"""Photograph to mask file on the CPU, side by side with its peers.

    python tests/bench/inference.py --rounds 3 [--data ../shared/data/CelebAMask-HQ]

A folder of 1024 x 1024 JPEGs; every contender writes a grey PNG of the photograph's size for each,
in a fresh process a round, interleaved. Peers run in an environment of their own, on weights that
this program wrote for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import contest
import document
import photographs
from contest import Contender, Figures

START = time.perf_counter()  # the packages are imported later
SIZE, BAR = 256, 3.0
LATENCIES = 8
PEERS = Path(__file__).with_name("peers")
PACKAGES = ("torch", "opencv-python-headless", "simplejpeg", "zlib-ng", "pillow", "numpy")
PEER_PACKAGES = ("torch", "onnxruntime", "onnx", "simplejpeg", "pillow", "numpy")
PREDICTING = "https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html"
THREADS = "https://onnxruntime.ai/docs/performance/tune-performance/threading.html"
OURS = {
    "ours": "`infer.run.run`, mask only, `--faces whole`: the picture as it is, as the peers do",
    "ours, auto": "the same with `--faces auto`: finds the faces of any photo first",
}

TEXT = """
Bundled weights, float32, CPU. "images/s" is the whole folder, file to mask file, in a process that
runs already; "one photo" is the median latency of a single one there; "start" is from importing to
the first mask; "network" is the network alone, a picture, at batch 1 and 16. Ours gives every
core photographs of its own, in batches of 4.

The plain script opens with Pillow, converts, resizes, normalises, runs the network in float32
(contiguous, without gradients), resizes the mask back and saves it, one photograph after the other:
with the plain U-Net of as many parameters as ours (random weights), and with our network and
weights. ONNX Runtime runs our network with batch normalisation folded, with our way of decoding and
resizing, once with all cores in each operator, once with a session of one thread a core and a
photograph each; freed memory is kept in both. "IoU" is that of all masks with ours, pooled.
"""


def tuned() -> tuple[Any, Any]:
    """Tune the process as the program does, and load the bundled weights."""
    from preprocess.runtime import tune_process

    tune_process()
    import torch

    from infer import Predictor

    return torch, Predictor.bundled()


def contend(faces: str, photos: Path, out: Path) -> Figures:
    """Run ours over the folder."""
    torch, predictor = tuned()
    from infer.output import View
    from infer.photos import find_photos, plan
    from infer.run import Result, run

    def segment(files: Sequence[Path]) -> float:
        started = time.perf_counter()
        target = out / f"{files[0].stem}_eyes.png" if len(files) == 1 else out
        for outcome in run(predictor, plan(files, target, [View.MASK]), faces):
            if not isinstance(outcome, Result):
                raise click.ClickException(outcome.problem)
        return time.perf_counter() - started

    out.mkdir(parents=True, exist_ok=True)
    files = find_photos([str(photos)])
    segment(files[:1])
    first = time.perf_counter() - START
    for file in files[:4]:
        segment([file])
    latencies = sorted(segment([file]) for file in (files * LATENCIES)[:LATENCIES])
    figures = {"latency": 1e3 * latencies[len(latencies) // 2], "start": first}
    segment(files[:8])
    figures["images_per_second"] = len(files) / segment(files)
    for batch in (1, 16):
        images = torch.zeros(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(3):
                predictor._model(images)
            times = []
            for _ in range(max(3, 16 // batch)):
                started = time.perf_counter()
                predictor._model(images)
                times.append(time.perf_counter() - started)
        figures[f"network_{batch}"] = 1e3 * sorted(times)[len(times) // 2] / batch
    return figures


def stages(faces: str, photos: Path, out: Path) -> Figures:
    """Run ours on one core with a stopwatch at each stage; CPU ms a photograph."""
    torch, predictor = tuned()
    import cv2

    from infer import faces as finder
    from infer import run
    from infer.output import View

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    spent: dict[str, float] = {}

    def watch(owner: Any, name: str, stage: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner, start = sum(spent.values()), time.process_time()
            try:
                return real(*args, **kwargs)
            finally:  # what stages inside took is theirs
                inner = sum(spent.values()) - inner
                spent[stage] = spent.get(stage, 0) + time.process_time() - start - inner

        setattr(owner, name, timed)

    files = run.find_photos([str(photos)])
    out.mkdir(parents=True, exist_ok=True)
    jobs = run.plan(files, out, [View.MASK])
    list(run.run(predictor, jobs[:4], faces))
    watch(run, "_pixels", "look at the header")
    watch(run, "decode_fitted", "decode and shrink")
    watch(run, "decode_rgb", "decode and shrink")
    watch(finder.FaceFinder, "find", "find faces")
    watch(type(predictor), "prepare", "cut out")
    watch(type(predictor), "probabilities", "network")
    watch(type(predictor), "assemble", "bring back, measure eyes")
    watch(run, "draw", "threshold")
    watch(run, "save", "PNG and file")
    # One after the other, or the CPU time of two stages would be counted to both.
    start = time.process_time()
    for job in jobs:
        loaded = run._load(predictor, job, faces)
        run._pixels(job.photo)
        run._finish(predictor, [(job, loaded)])
    spent["rest"] = time.process_time() - start - sum(spent.values())
    return {stage: 1e3 * seconds / len(jobs) for stage, seconds in spent.items()}


def prepare(place: Path, count: int, data: Path | None, python: Path) -> dict[str, str]:
    """Make the photographs, and write the weights as the peers read them."""
    import torch

    from infer.weights import load_bundled
    from preprocess.celebamask import IMAGE_FOLDER
    from train.model import fold_batch_norm

    said = photographs.lay_out(place / "set", count, data)
    (place / "set" / IMAGE_FOLDER).rename(place / "photos")
    checkpoint = load_bundled()
    example = torch.zeros(2, 3, SIZE, SIZE)
    for name, model in (
        ("plain.ts", checkpoint.build().to(memory_format=torch.contiguous_format)),
        (
            "folded.ts",
            fold_batch_norm(checkpoint.build()).to(memory_format=torch.contiguous_format),
        ),
    ):
        torch.jit.trace(model, example).save(str(place / name))
    (place / "threshold").write_text(str(checkpoint.threshold))
    export = [str(python), str(PEERS / "onnx_infer.py"), "--export", str(place / "folded.ts")]
    done = subprocess.run(
        [*export, "--model", str(place / "net.onnx")], capture_output=True, text=True
    )
    if done.returncode:
        raise click.ClickException(f"the network was not exported:\n{done.stderr[-2000:]}")
    return {"photographs": said.partition("; two masks")[0]}


def contenders(python: Path, place: Path) -> list[Contender]:
    """List all who take part, and, last, our own stages."""
    threshold = (place / "threshold").read_text()

    def own(name: str) -> Contender:
        command = (sys.executable, __file__, "--contender", name, "--place", str(place))
        return Contender(name, OURS.get(name, name), command)

    def peer(
        name: str, what: str, script: str, advice: str, *options: str, keep: bool = False
    ) -> Contender:
        command = [str(python), str(PEERS / script), "--photos", str(place / "photos")]
        command += ["--out", str(place / "out" / name), "--threshold", threshold]
        command += ["--latency", str(LATENCIES), *options]
        return Contender(name, what, tuple(command), advice, contest.KEEP_MEMORY if keep else {})

    onnx = ("--model", str(place / "net.onnx"))
    return [
        *map(own, OURS),
        peer("plain script", "Pillow, plain U-Net", "plain_infer.py", PREDICTING),
        peer("plain script, our network", "Pillow, our weights", "plain_infer.py", PREDICTING,
             "--model", str(place / "plain.ts")),
        peer("ONNX Runtime", "our weights, all cores in each operator", "onnx_infer.py", THREADS,
             *onnx, keep=True),
        peer("ONNX Runtime, a photo a core", "our weights, sessions of one thread",
             "onnx_infer.py", THREADS, *onnx, "--layout", "photographs", keep=True),
        own("stages"),
        own("stages, auto"),
    ]  # fmt: skip


def agreement(place: Path, name: str) -> float:
    """Return the IoU of a contender's masks with ours, over all pixels of the folder.

    Raises
    ------
    click.ClickException
        Where a mask is missing or has another size: that contender did not do the work.
    """
    import cv2

    hit = union = 0
    for photo in sorted((place / "photos").iterdir()):
        ours = cv2.imread(str(place / "out" / "ours" / f"{photo.stem}_eyes.png"), 0)
        other = place / "out" / name / f"{photo.stem}{'_eyes' if name in OURS else ''}.png"
        mask = cv2.imread(str(other), 0) if other.exists() else None
        if mask is None or mask.shape != ours.shape:
            raise click.ClickException(f"{name} left no mask of the photograph's size at {other}")
        hit += int(((mask > 0) & (ours > 0)).sum())
        union += int(((mask > 0) | (ours > 0)).sum())
    return hit / max(1, union)


def measure(place: Path, options: dict[str, Any], facts: dict[str, str]) -> Any:
    """Hold the contest; return section and all figures."""
    entrants = contenders(options["peers"], place)
    results = contest.run_rounds(entrants, options["rounds"])
    spent = {name: results.pop(name) for name in ("stages", "stages, auto")}
    facts["rounds"] = f"{options['rounds']}, interleaved; medians (lowest to highest)"
    speed, rows = "images_per_second", []
    for who in entrants:
        if who.name not in results:
            continue
        found = results[who.name]
        iou = agreement(place, who.name)
        # On our weights they must see the same eyes; another resize moves the edges a little.
        least = {"plain script": 0.0, "ours, auto": 0.7}.get(who.name, 0.9)
        if iou < least:
            raise click.ClickException(f"{who.name}: masks have an IoU of {iou:.3f} with ours")
        rows.append((
            who.name, f"[{who.what}]({who.advice})" if who.advice else who.what,
            contest.spread((row[speed] for row in found), 1),
            contest.spread(contest.ratios(results["ours"], found, speed), 2, "x"),
            contest.spread((row["latency"] for row in found), 0),
            contest.spread((row["start"] for row in found), 1),
            *(contest.spread((row[f"network_{n}"] for row in found), 1) for n in (1, 16)),
            f"{iou:.3f}" if least else "-",
        ))  # fmt: skip
    head = ("contender", "what it does", "images/s", "ours, against", "one photo, ms", "start, s",
            "network, batch 1, ms", "batch 16, ms a picture", "IoU")  # fmt: skip
    names = list(dict.fromkeys(stage for row in spent.values() for stage in row[0]))
    shares = [
        (stage, *(contest.spread((row[stage] for row in found), 2) if stage in found[0] else "-"
                  for found in spent.values()))
        for stage in names
    ]  # fmt: skip
    totals = [contest.spread((sum(row.values()) for row in found), 1) for found in spent.values()]
    shares.append(("all", *totals))
    tables = {
        "Contenders": contest.markdown(head, rows),
        "Where the time goes, CPU ms a photograph, one core": contest.markdown(
            ("stage", "ours", "ours, auto"), shares
        ),
    }
    bars = []
    for name in results.keys() - OURS.keys():
        times = contest.ratios(results["ours"], results[name], speed)
        least = BAR if name == "plain script" else 1.0
        middle = contest.median([{speed: value} for value in times], speed)
        bars.append(contest.bar(f"ours, images/s against {name}", middle, least))
    picture = "inference.png"
    section = document.Section("File to mask file", facts, tables, picture, sorted(bars))
    speeds = {name: [row[speed] for row in found] for name, found in results.items()}
    contest.plot(options["out"] / picture, "1024 x 1024 JPEG to mask PNG, CPU", "images a second",
                 speeds, tuple(OURS))  # fmt: skip
    return section, {"results": results, "stages": spent}


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else made up.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"), show_default=True
)
@click.option(
    "--peers-python", "peers", type=click.Path(path_type=Path), show_default=True,
    default=Path(".venv-bench/bin/python"), help="Python of the peers' environment.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=8), default=64, help="Photographs.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--contender", hidden=True)
@click.option("--place", type=click.Path(path_type=Path), hidden=True)
def main(contender: str, place: Path, to: Path | None, **options: Any) -> None:
    """Compare inference on the CPU; write OUT/inference.md."""
    if contender:
        faces = "auto" if "auto" in contender else "whole"
        work = stages if "stages" in contender else contend
        click.echo(json.dumps(work(faces, place / "photos", place / "out" / contender)))
        return
    contest.check_peers(options["peers"])
    options["peers"] = options["peers"].absolute()
    options["out"].mkdir(parents=True, exist_ok=True)
    facts = contest.facts(PACKAGES)
    facts["versions of the peers"] = contest.peer_versions(options["peers"], PEER_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="bench-infer-") as folder:
        facts |= prepare(Path(folder), options["count"], options["data"], options["peers"])
        section, figures = measure(Path(folder), options, facts)
    click.echo(section.markdown())
    title = "Inference on the CPU"
    document.write_document(options["out"] / "inference.md", title, TEXT, [section])
    if to:
        contest.save(to, {"facts": facts, **figures})


if __name__ == "__main__":
    main()

"""Packing, side by side with Pillow.

From an original of 1024 x 1024 and two mask PNGs to a finished shard of 256 x 256, on one core,
with the files in the page cache and one JPEG setting for all. The plain way decodes in full,
resizes with Lanczos, decodes both masks, joins them, and writes JPEG, PNG and tar, all with Pillow;
`draft` lets libjpeg halve the picture while decoding, as Pillow advises, and keeps freed memory, as
`preprocess.runtime` asks malloc to (the plain way is slower with it, and goes without). Ours is the
whole packer with one worker: plan, samples, shards, manifest. The limit decodes
the photograph at half size and both masks, with the fastest decoders that we have, and does nothing
else; ours decodes straight to a quarter, which saves it the resizing and some of the decoding. The
zip is made as `zip -r` makes it: deflated.
"""

import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import contest
import cv2
import material
import page
import simplejpeg
from contest import Contender, Figures, Options
from material import SIZE

from preprocess.archive import Member
from preprocess.celebamask import read_plan
from preprocess.encode import pack_sample
from preprocess.image import decode_fitted
from preprocess.manifest import PackSettings
from preprocess.mask import decode_mask, encode_label, label_map

TIMES = 4  # each photograph is packed under so many keys, so that starting weighs little
PLAIN, SHARE_OF_LIMIT, ZIP_COST = 4.0, 0.75, 1.1
DRAFT = "https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.draft"
STAGES = {
    "list the files": read_plan,
    "read": Member.read,
    "decode and shrink the photograph": decode_fitted,
    "decode the masks": decode_mask,
    "fit the masks": label_map,
    "encode the masks": encode_label,
    "encode the photograph, metadata": pack_sample,
}


def contenders(place: Path, count: int) -> list[Contender]:
    """List who takes part."""
    settings = PackSettings(size=SIZE)
    work = {"source": place / "set", "count": count, "size": SIZE, "quality": settings.quality,
            "subsampling": settings.subsampling}  # fmt: skip

    def pillow(name: str, what: str, advice: str, **keep: str) -> Contender:
        arguments = {**work, "draft": name == "draft"}
        return Contender(name, what, "peers/packing.py", "pillow", arguments, advice, keep)

    def own(name: str, what: str, function: str, source: str = "set") -> Contender:
        return Contender(name, what, "pack.py", function, {"source": place / source})

    return [
        pillow("plain", "Pillow, full decode, Lanczos", ""),
        pillow("draft", "Pillow, draft(512), Lanczos", DRAFT, **contest.KEEP_MEMORY),
        own("ours", "`preprocess.pack.pack`, one worker", "ours"),
        own("ours, from the zip", "the same, read from a zip that stays packed", "ours", "set.zip"),
        own("limit", "half-size decode and both masks, nothing else, memory kept", "limit"),
        own("stages", "", "stages"),
    ]


def ours(source: str) -> Figures:
    return timed(lambda: pack(Path(source)), Path(source))


def limit(source: str) -> Figures:
    plan = read_plan(Path(source))

    def decode() -> None:
        for sample in plan.samples:
            data = sample.image.read(plan.source)
            simplejpeg.decode_jpeg(data, "RGB", min_height=2 * SIZE, min_width=2 * SIZE)
            for member in sample.masks.values():
                decode_mask(member.read(plan.source))

    return timed(decode, plan.source)


def stages(source: str) -> Figures:
    cv2.setNumThreads(1)
    pack(Path(source))
    count = len(read_plan(Path(source)).samples)
    spent = contest.seconds_by_stage(STAGES, lambda: pack(Path(source)))
    return {stage: 1e3 * seconds / count for stage, seconds in spent.items()}


def pack(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        material.pack_all(source, Path(out), "train", workers=1)


def timed(work: Callable[[], None], source: Path) -> Figures:
    """Work twice, so that the first pass loads what is needed; time the second."""
    count = len(read_plan(source).samples)
    cv2.setNumThreads(1)
    work()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": 1e3 * cpu / count, "wall": 1e3 * wall / count, "images": count / cpu}


def write_zip(folder: Path, archive: Path) -> None:
    """Zip a folder as `zip -r` does: deflated at level 6, stored what that does not shrink."""
    with zipfile.ZipFile(archive, "w", compresslevel=6) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            smaller = len(zlib.compress(content, 6)) < len(content)
            method = zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED
            file.write(path, f"CelebAMask-HQ/{path.relative_to(folder).as_posix()}", method)


def measure(options: Options, place: Path) -> page.Section:
    """Hold the contest on one set of photographs."""
    count, data = TIMES * options.count, options.data
    facts = page.facts("numpy opencv-python-headless simplejpeg zlib-ng", options.peers,
                       "pillow numpy")  # fmt: skip
    facts["photographs"] = material.lay_out(place / "originals", options.count, data)
    material.repeat(place / "originals", place / "set", {"train": count})
    write_zip(place / "set", place / "set.zip")
    zipped = (place / "set.zip").stat().st_size / count / 1e3
    facts["samples"] = f"{count}: each photograph {TIMES} times; {zipped:.0f} KB each in the zip"
    entrants = contenders(place, count)
    output = "{size} x {size}, JPEG quality {quality}, {subsampling}"
    facts["output"] = output.format(**entrants[0].arguments)
    found = contest.run_rounds(entrants, options.rounds, options.peers)
    columns = {"images a second and core": ("images", 0), "CPU ms an image": ("cpu", 2),
               "wall ms an image": ("wall", 2)}  # fmt: skip
    bars = [
        page.bar("share of the limit", found.ratio("ours", "limit"), SHARE_OF_LIMIT, ""),
        page.bar("cost from the zip", found.ratio("ours", "ours, from the zip"), most=ZIP_COST),
    ]
    stages = page.stage_table({"CPU ms an image": found.figures["stages"]})
    title, slug = options.set_name
    return page.contest_section(
        title, options.out / f"packing-{slug}.png", facts, found, ["ours"], columns,
        least={"plain": PLAIN}, tables={"Ours by stage": stages}, bars=bars,
    )  # fmt: skip


@click.command()
@contest.contest_options(count=48)
def main(options: Options) -> None:
    """Compare packing with Pillow, on drawn faces and on DATA; write OUT/packing.md."""
    sections = [measure(replace(options, data=None), options.place / "drawn-faces")]
    if options.data:
        sections.append(measure(options, options.place / "data"))
    page.write_page(options.out / "packing.md", __doc__, sections)


if __name__ == "__main__":
    contest.serve((ours, limit, stages), main)

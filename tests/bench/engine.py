"""Packing on Ray, beside packing by processes.

Each run starts its workers anew and packs into a new place. Images/s count from the first shard of
each worker to the last shard of all; start and end is what the run took besides. Ray's own
processes share the cores with the workers. What several machines gain is not measured.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import contest
import material
import page
from contest import Contender, Figures, Options

from preprocess.celebamask import read_plan
from preprocess.engine import on_ray
from preprocess.manifest import PackSettings
from preprocess.pack import pack_shard
from preprocess.plan import plan_shards
from preprocess.runtime import in_processes

SAMPLES, SHARD = 1024, 32


def pack(source: str, root: str, workers: int, ray: bool) -> Figures:
    settings = PackSettings(material.SIZE, samples_per_shard=SHARD)
    out = Path(root, str(time.time_ns()))
    job = partial(pack_shard, Path(source), out, settings)
    tasks = plan_shards(read_plan(Path(source), "train"), settings)
    engine: Any = on_ray if ray else in_processes
    started, ends = time.perf_counter(), []
    for _ in engine(job, tasks, workers):
        ends.append(time.perf_counter())
    whole, later = time.perf_counter() - started, len(tasks) - workers
    speed = later * SHARD / (ends[-1] - ends[workers - 1])
    return {"images/s": speed, "start and end s": whole - SAMPLES / speed}


@click.command()
@contest.contest_options(count=64)
def main(options: Options) -> None:
    """Pack by processes and on Ray; write OUT/engine.md."""
    facts = page.facts("ray opencv-python-headless simplejpeg")
    facts["photographs"] = material.lay_out(options.place / "drawn", options.count, options.data)
    facts["samples"] = f"{SAMPLES}: the photographs again and again, {SHARD} a shard"
    source = options.place / "set"
    material.repeat(options.place / "drawn", source, {"train": SAMPLES})
    work = {"source": source, "root": options.place / "packs"}
    entrants = (("Ray, 1 CPU", 1, True), ("in this process", 1, False),
                ("Ray, 2 CPUs", 2, True), ("2 processes", 2, False))  # fmt: skip
    contenders = [
        Contender(name, "", "engine.py", "pack", {"workers": workers, "ray": ray} | work)
        for name, workers, ray in entrants
    ]
    found = contest.run_rounds(contenders, options.rounds)
    tables = {}
    for one, other in (contenders[:2], contenders[2:]):
        ratio = page.spread(found.ratios(one.name, other.name, "images/s"))
        table = page.figure_table(found, [one.name, other.name])
        tables[f"{one.name}, over {other.name}: {ratio} of the images/s"] = table
    page.write_page(options.out / "engine.md", __doc__, [page.Section("Figures", facts, tables)])


if __name__ == "__main__":
    contest.serve((pack,), main)

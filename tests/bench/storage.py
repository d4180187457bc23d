"""Packs in object storage, beside the same packs on disk.

The storage is moto's S3 server on loopback: Python, on the cores that it shares with what is
measured. So the ratios say little of S3 itself; the CPU time is that of the loading process
alone, without TLS. Packing counts from the call of `pack`, a worker a core, each time into a new
place. Loading gives shuffled batches of 16, 256 x 256, decoded anew; a sample in storage is a
request of its own.
"""

import logging
import os
import time
from pathlib import Path
from urllib.request import Request, urlopen

import click
import contest
import material
import page
import torch
from contest import Contender, Figures, Options
from material import BATCH
from moto.server import ThreadedMotoServer
from rulers import rate

from preprocess.storage import place
from train.data import Loader
from train.split import Split

SAMPLES, SHARD, SECONDS = 512, 128, 4.0


def pack(source: str, root: str) -> Figures:
    report = material.pack_all(Path(source), place(f"{root}/{time.time_ns()}"), "train", SHARD)
    return {"images/s": report.packed / report.seconds}


def load(root: str, kind: str) -> Figures:
    split = Split.open(place(f"{root}/pack"), "train")
    batches = material.loaded(split, Loader(split, torch.device("cpu"), kind), BATCH)
    cpu, started = time.process_time(), time.perf_counter()
    speed = rate(batches, BATCH, SECONDS)
    images = speed * (time.perf_counter() - started)
    return {"images/s": speed, "CPU ms an image": 1e3 * (time.process_time() - cpu) / images}


@click.command()
@contest.contest_options(count=64)
def main(options: Options) -> None:
    """Pack to storage and to disk, load from both; write OUT/storage.md."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urlopen(Request(f"{url}/bench", method="PUT")).close()
    os.environ.update(AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none")
    facts = page.facts("obstore moto torch nvidia-dali-cuda120")
    facts["photographs"] = material.lay_out(options.place / "drawn", options.count, options.data)
    facts["samples"] = f"{SAMPLES}: the photographs again and again, {SHARD} a shard"
    source = options.place / "set"
    material.repeat(options.place / "drawn", source, {"train": SAMPLES})
    entrants: dict[str, list[Contender]] = {"packing": [], "portable": [], "dali": []}
    for where, root in (("S3", "s3://bench"), ("disk", options.place / "disk")):
        material.pack_all(source, place(f"{root}/pack"), "train", SHARD)
        for job, some in entrants.items():
            work = {"source": source} if job == "packing" else {"kind": job}
            function, name = "pack" if job == "packing" else "load", f"{job}, {where}"
            some.append(Contender(name, "", "storage.py", function, {"root": root} | work))
    found = contest.run_rounds(sum(entrants.values(), []), options.rounds)
    tables = {}
    for job, some in entrants.items():
        one, other = (who.name for who in some)
        ratio = page.spread(found.ratios(one, other, "images/s"))
        table = page.figure_table(found, [one, other])
        tables[f"{job.capitalize()}, S3 over disk: {ratio} of the images/s"] = table
    page.write_page(options.out / "storage.md", __doc__, [page.Section("Figures", facts, tables)])


if __name__ == "__main__":
    contest.serve((pack, load), main)

"""What the tests of Ray share: words, and harm to a shard that is being packed."""

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import common
from common import Patch

import preprocess.pack
from preprocess.cli import main

call = partial(common.call, main)
WORDS = ("--size", 32, "--samples-per-shard", 4, "--no-tune")
ON_RAY = (*WORDS, "--engine", "ray")
VICTIM = "train/eyes-000003.tar"
QUIET = {"RAY_AUTH_TOKEN": "1" * 64, "RAY_USAGE_STATS_ENABLED": "0"}  # else it is kept at home


class Harm:
    """Harms the packing of VICTIM after its first sample, so many times; counts all starts."""

    def __init__(self, place: Path, patch: Patch) -> None:
        self.place, self.patch = place, patch

    def starts(self) -> Counter[str]:
        return Counter(path.name.split()[0].replace("+", "/") for path in self.place.iterdir())

    def __call__(self, times: int, error: Exception | None = None) -> None:
        place = self.place

        def pack_shard(source: Path, out: Path, settings: Any, planned: Any, **more: Any) -> Any:
            import preprocess.pack as packing

            name = planned.name.replace("/", "+")
            (place / f"{name} {time.time_ns()}").touch()
            real, first = packing.pack_sample, planned.samples[0]

            def harmed(source: Path, sample: Any, *args: Any) -> Any:
                if sample is first:
                    return real(source, sample, *args)
                if error:
                    raise error
                return os.kill(os.getpid(), signal.SIGKILL)

            if planned.name == VICTIM and len(list(place.glob(f"{name} *"))) <= times:
                packing.pack_sample = harmed
            try:
                function = getattr(packing, "unharmed", packing.pack_shard)
                return function(source, out, settings, planned, **more)
            finally:
                packing.pack_sample = real

        unharmed = preprocess.pack.pack_shard  # for a run in this process
        self.patch.setattr(preprocess.pack, "unharmed", unharmed, raising=False)
        self.patch.setattr(preprocess.pack, "pack_shard", pack_shard)


def processes(session: int) -> list[str]:
    """Return the processes of a session, and what each is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, fields = path.read_text().rsplit(")", 1)
            if int(fields.split()[3]) == session and fields.split()[0] != "Z":
                found.append(name)
    return found

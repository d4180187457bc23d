"""Contests: contenders in fresh processes, in interleaved rounds of one run.

A contender is a function in a script. `run` starts ``PYTHON SCRIPT FUNCTION ARGUMENTS``; `serve`,
at the end of each script, calls the function and prints its figures as a line of JSON. Scripts in
``peers/`` run in the environment of the peers, all others in this project's. Every round runs every
contender once, in an order that turns from round to round, so that a slow minute of the machine
hits all alike. A contender that fails ends the contest with its own words.

To add a peer: write its function in ``peers/`` and list it in the stage's `contenders` (a peer of
loading needs the function alone). `page` turns the results into a page.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATH = click.Path(path_type=Path)
Figures = dict[str, float]
# What `preprocess.runtime` asks of malloc, for programs that do not ask themselves.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
sys.path.insert(0, str(ROOT))  # what is measured is this checkout, whatever is installed
if Path(sys.argv[0]).resolve().parent == HERE:
    # As the program's own commands do, and before anything imports torch.
    from preprocess.runtime import tune_process

    tune_process()


@dataclass(frozen=True)
class Contender:
    """One way to do the work: its name, what it does, the function to run, and a peer's advice.

    `script` is relative to this folder; `advice` is a link to where the settings come from.
    Variables that tune malloc or OpenMP are taken out of the user's environment, so that every
    contender runs as it would by itself, and those of `environment` are added.
    """

    name: str
    what: str
    script: str
    function: str
    arguments: Mapping[str, Any]
    advice: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        return self.script.startswith("peers/")


@dataclass(frozen=True)
class Options:
    """What the command line of a contest says, and a folder to work in."""

    rounds: int
    count: int
    data: Path | None
    out: Path
    peers: Path
    place: Path

    @property
    def set_name(self) -> tuple[str, str]:
        """What the photographs are called in titles, and in names of files."""
        return (self.data.name, self.data.stem) if self.data else ("Drawn faces", "made-up")


@dataclass(frozen=True)
class Results:
    """Figures of contenders, round by round."""

    contenders: Sequence[Contender]
    figures: Mapping[str, Sequence[Figures]]

    def who_measured(self, figure: str) -> list[Contender]:
        return [who for who in self.contenders if figure in self.figures[who.name][0]]

    def of(self, name: str, figure: str = "images") -> list[float]:
        return [row[figure] for row in self.figures[name]]

    def median(self, name: str, figure: str = "images") -> float:
        return statistics.median(self.of(name, figure))

    def ratios(self, one: str, other: str, figure: str = "images") -> list[float]:
        """Return the quotients of two contenders, round by round."""
        return [a / b for a, b in zip(self.of(one, figure), self.of(other, figure), strict=True)]

    def ratio(self, one: str, other: str, figure: str = "images") -> float:
        return statistics.median(self.ratios(one, other, figure))


def run(contender: Contender, peers: Path) -> Figures:
    """Run a contender once, in a process of its own."""
    python = str(peers) if contender.is_peer else sys.executable
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OMP_"))}
    variables |= {"PYTHONPATH": str(HERE), "CONTEST_STARTED": str(time.time())}
    arguments = json.dumps(dict(contender.arguments), default=str)
    done = subprocess.run(
        [python, str(HERE / contender.script), contender.function, arguments],
        capture_output=True, text=True, cwd=ROOT, env=variables | dict(contender.environment),
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-15:])
        problem = f"{contender.name!r} did not run (exit code {done.returncode})"
        raise click.ClickException(f"{problem}: {' '.join(done.args)}\n{last}")
    return {name: float(value) for name, value in json.loads(lines[-1]).items()}


def run_rounds(contenders: Sequence[Contender], rounds: int, peers: Path = Path()) -> Results:
    """Run all contenders in interleaved rounds."""
    figures: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    for number in range(rounds if contenders else 0):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            row = run(contender, peers)
            figures[contender.name].append(row)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
            click.echo(f"round {number + 1} of {rounds}: {contender.name}: {shown}", err=True)
    return Results(contenders, figures)


def serve(functions: Iterable[Callable[..., Figures | None]], command: Any = None) -> None:
    """Call the function that `run` asks for, or else the script's own command."""
    by_name = {function.__name__: function for function in functions}
    if sys.argv[1:] and sys.argv[1] in by_name:
        print(json.dumps(by_name[sys.argv[1]](**json.loads(sys.argv[2])) or {}))
    elif command:
        command()


def seconds_since_start() -> float:
    """Return the seconds since `run` started this process."""
    return time.time() - float(os.environ["CONTEST_STARTED"])


ROUNDS = click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
OUT = click.option("--out", type=PATH, default=Path("docs/benchmarks"), show_default=True)


def contest_options(count: int) -> Callable[..., Any]:
    """Give a command the options of every contest; they reach it as one `Options`."""
    python = Path(".venv-bench/bin/python")
    declared = (
        click.option("--peers-python", "peers", type=PATH, default=python, show_default=True),
        click.option("--data", type=PATH, help="CelebAMask-HQ; else drawn."),
        click.option("--count", default=count, show_default=True, help="Photographs."),
        OUT,
        ROUNDS,
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def decorated(
            rounds: int, count: int, data: Path | None, out: Path, peers: Path, **more: Any
        ) -> None:
            if not peers.exists():
                raise click.ClickException(
                    f"{peers} is missing: the peers have an environment of their own. "
                    "Make it with `make peers`, or name its Python with --peers-python"
                )
            with tempfile.TemporaryDirectory(prefix="bench-") as place:
                command(Options(rounds, count, data, out, peers.absolute(), Path(place)), **more)

        return functools.reduce(lambda wrapped, option: option(wrapped), declared, decorated)

    return decorate


def seconds_by_stage(stages: Mapping[str, Callable[..., Any]], work: Callable[[], Any]) -> Figures:
    """Count the CPU seconds of functions, in all threads, each without the others it calls.

    The functions are replaced for good, wherever a module names them: this process is for that.
    """
    spent, threads = dict.fromkeys(stages, 0.0), threading.local()

    def watched(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outside = getattr(threads, "inside", 0.0)
            threads.inside, started = 0.0, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.thread_time() - started
                spent[stage] += whole - threads.inside
                threads.inside = outside + whole

        return timed

    for stage, function in stages.items():
        owner, _, method = function.__qualname__.rpartition(".")
        if owner:
            kind = vars(sys.modules[function.__module__])[owner]
            setattr(kind, method, watched(stage, function))
            continue
        for names in [vars(module) for module in sys.modules.values()]:
            for name in [name for name, value in names.items() if value is function]:
                names[name] = watched(stage, function)
    started = time.process_time()
    work()
    return spent | {"rest": time.process_time() - started - sum(spent.values())}

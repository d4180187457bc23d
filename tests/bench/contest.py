"""Contests: contenders in fresh processes, in interleaved rounds of one run.

A contender is a command that prints one line of JSON, figures by name, as the last line of its
standard output. Every round runs every contender once, in an order that turns from round to
round, so that a slow minute of the machine hits all alike. A contender that fails ends the
contest with its own words: a table that silently lacks a peer would be worth nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

Figures = dict[str, float]
ROOT = Path(__file__).resolve().parents[2]
# What `preprocess.runtime` asks of malloc, for programs that do not ask themselves.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes
    ----------
    name, what
        Short name, and what it does, in words.
    command
        What to run; the last line of its standard output is a JSON object of figures.
    advice
        Where the settings come from (a link), for peers.
    environment
        Variables to add. Those that tune malloc or OpenMP are taken out of the user's own
        environment, so that every contender runs as it would by itself.
    """

    name: str
    what: str
    command: tuple[str, ...]
    advice: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


class Stopwatch:
    """CPU seconds by stage: stands around functions, in whichever thread runs them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Replace a function by one that counts its time to a stage."""
        real: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return real(*args, **kwargs)
            finally:
                self.spent[stage] += time.thread_time() - start

        setattr(owner, name, timed)


def run(contender: Contender) -> Figures:
    """Run a contender once, in a process of its own.

    Raises
    ------
    click.ClickException
        Where it fails, with the end of what it wrote.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OMP_"))}
    done = subprocess.run(
        contender.command, capture_output=True, text=True, cwd=ROOT,
        env=variables | {"PYTHONPATH": str(ROOT)} | dict(contender.environment),
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-15:])
        raise click.ClickException(
            f"contender {contender.name!r} did not run (exit code {done.returncode}):\n{last}\n"
            f"command: {' '.join(contender.command)}"
        )
    return {name: float(value) for name, value in json.loads(lines[-1]).items()}


def run_rounds(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Figures]]:
    """Run all contenders in interleaved rounds; returns each one's figures, round by round."""
    results: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            figures = run(contender)
            results[contender.name].append(figures)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            click.echo(f"round {number + 1} of {rounds}: {contender.name}: {shown}", err=True)
    return results


def median(rows: Iterable[Figures], figure: str) -> float:
    """Median over the rounds."""
    return statistics.median(row[figure] for row in rows)


def ratios(one: Sequence[Figures], other: Sequence[Figures], figure: str) -> list[float]:
    """Quotients of two contenders, round by round."""
    return [a[figure] / b[figure] for a, b in zip(one, other, strict=True)]


def spread(values: Iterable[float], digits: int = 2, unit: str = "") -> str:
    """Format as median (lowest to highest)."""
    values = sorted(values)
    low, middle, high = values[0], statistics.median(values), values[-1]
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def bar(label: str, value: float, least: float, unit: str = "x") -> str:
    """Say in one line whether a bar is reached."""
    verdict = "reached" if value >= least else "NOT REACHED"
    return f"{label}: {value:.2f}{unit} (bar {least:g}{unit}), {verdict}"


def ceiling(label: str, value: float, most: float, unit: str = "x") -> str:
    """Say in one line whether a value stays under a bar."""
    verdict = "kept" if value <= most else "NOT KEPT"
    return f"{label}: {value:.2f}{unit} (at most {most:g}{unit}), {verdict}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def processor() -> str:
    """Name the processor."""
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def facts(packages: Sequence[str]) -> dict[str, str]:
    """Say where and with what a run was made: processor, load, versions, commit."""
    from preprocess.runtime import usable_cores

    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return {
        "processor": f"{processor()}, {usable_cores()} cores{load}",
        "versions": ", ".join(versions),
        "commit": commit(),
    }


def commit() -> str:
    """Name the commit that is measured, "-dirty" where the code is not what was committed.

    The documents do not count: each benchmark of a run rewrites its own.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(exclude)docs")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def check_peers(python: Path) -> None:
    """End the contest where the peers' own environment is missing.

    Raises
    ------
    click.ClickException
        With the remedy.
    """
    if not python.exists():
        raise click.ClickException(
            f"{python} is missing: the peers have an environment of their own. "
            "Make it with `make peers`, or name its Python with --peers-python"
        )


def peer_versions(python: Path, packages: Sequence[str]) -> str:
    """Say which versions of the peers take part."""
    code = "import importlib.metadata as m, sys; [print(p, m.version(p)) for p in sys.argv[1:]]"
    command = [str(python), "-c", code, *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{python} lacks a peer: {done.stderr.strip()[-300:]}")
    return ", ".join(done.stdout.split("\n")[:-1])


def plot(
    path: Path, title: str, axis: str, values: Mapping[str, Sequence[float]], ours: Sequence[str]
) -> None:
    """Draw horizontal bars of medians with a line from lowest to highest; ours in colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(values, key=lambda name: statistics.median(values[name]))
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.36 * len(names)), layout="constrained")
    for row, name in enumerate(names):
        middle = statistics.median(values[name])
        axes.barh(row, middle, color="tab:green" if name in ours else "0.75")
        axes.plot([min(values[name]), max(values[name])], [row, row], color="0.25", lw=1)
        axes.text(
            max(values[name]),
            row,
            f"  {middle:,.0f}" if middle >= 100 else f"  {middle:.3g}",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(title=title, xlabel=axis)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def save(path: Path, content: Any) -> None:
    """Write all measurements as JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n")

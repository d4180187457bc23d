"""Pages of benchmarks: what a run found, with the facts needed to judge it."""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
from contest import ROOT, Contender, Figures, Results

from preprocess.runtime import usable_cores


@dataclass(frozen=True)
class Section:
    """What a run found on one set of photographs: facts, plot, tables, bars."""

    title: str
    facts: Mapping[str, str]
    tables: Mapping[str, str]
    bars: Sequence[str] = ()
    picture: str = ""

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        lines += [f"- {name}: {fact}" for name, fact in self.facts.items()]
        if self.picture:
            lines += ["", f"![{self.title}]({self.picture})"]
        for heading, table in self.tables.items():
            lines += ["", f"{heading}:", "", table]
        if self.bars:
            lines += ["", "Bars:", "", *(f"- {line}" for line in self.bars)]
        return "\n".join(lines)


def write_page(path: Path, text: str | None, sections: Sequence[Section]) -> None:
    """Write a page: a script's docstring, its first line the title, and what was measured."""
    title, _, rest = (text or "").partition("\n")
    body = "\n\n".join(section.markdown() for section in sections)
    note = f"*Written by `tests/bench/{Path(sys.argv[0]).name}`, its text too.*"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {title.rstrip('.')}\n\n{rest.strip()}\n\n{note}\n\n{body}\n")
    click.echo(body)


def facts(packages: str, peers: Path | None = None, of_peers: str = "") -> dict[str, str]:
    """Say how, where and with what a run was made: command, processor, versions, commit."""
    found = {
        "command": f"`{_command()}`",
        "processor": f"{_processor()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f} at "
        "the start",
        "versions": ", ".join([f"Python {platform.python_version()}",
                               *(f"{package} {version(package)}" for package in packages.split())]),
        "commit": _commit(),
    }  # fmt: skip
    if peers:
        code = "import importlib.metadata as m, sys; [print(p, m.version(p)) for p in sys.argv[1:]]"
        said = output(peers, "-c", code, *of_peers.split())
        if not said:
            raise click.ClickException(f"{peers} lacks one of {of_peers}")
        found["versions of the peers"] = ", ".join(said.splitlines())
    return found


def output(*command: object) -> str:
    """Return what a command prints; nothing if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def _command() -> str:
    """Return the command line, without the machine's own paths."""
    context = click.get_current_context()
    words = [f"python tests/bench/{Path(sys.argv[0]).name}"]
    for option in context.command.params:
        found = context.params[option.name or ""]
        for value in found if isinstance(found, tuple) else (found,):
            if value not in (None, False) and option.name not in {"out", "peers", "work"}:
                shown = "" if value is True else getattr(value, "name", value)
                words.append(f"{option.opts[0]} {shown}".strip())
    return " ".join(words)


def _processor() -> str:
    facts = Path("/proc/cpuinfo").read_text()
    return facts.partition("model name")[2].partition("\n")[0].strip("\t: ")


def _commit() -> str:
    """Name the commit that is measured, "-dirty" if the code, documents apart, has changed."""
    git = ("git", "-C", ROOT)
    changed = output(*git, "status", "--porcelain", "--untracked-files=no", "--", ":(exclude)docs")
    return output(*git, "rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def spread(values: Iterable[float], digits: int = 2, unit: str = "") -> str:
    """Format as median (lowest to highest)."""
    values = list(values)
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def bar(label: str, value: float, least: float = 0.0, unit: str = "x", most: float = 0.0) -> str:
    """Say in one line whether a bar is reached: at least so much, or at most."""
    verdict = "reached" if (value <= most if most else value >= least) else "NOT REACHED"
    wanted = f"at most {most:g}" if most else f"at least {least:g}"
    return f"{label}: {value:.2f}{unit} (bar: {wanted}{unit}), {verdict}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def contender_table(
    found: Results,
    columns: Mapping[str, tuple[str, int]],
    ours: Sequence[str],
    cells: Mapping[str, Callable[[Contender], str]],
) -> str:
    """Make the table of those who measured "images", a second.

    `columns` gives figure and digits by heading; a column follows for each of `ours` against each
    contender, and one for each of `cells`, which tells its text from the contender.
    """
    rows = [
        [
            who.name,
            f"[{who.what}]({who.advice})" if who.advice else who.what,
            *(spread(found.of(who.name, figure), digits) for figure, digits in columns.values()),
            *(spread(found.ratios(own, who.name), unit="x") for own in ours),
            *(cell(who) for cell in cells.values()),
        ]
        for who in found.who_measured("images")
    ]
    against = [f"{own}, against" for own in ours]
    return markdown(["contender", "what it does", *columns, *against, *cells], rows)


def figure_table(found: Results, names: Sequence[str]) -> str:
    """Make the table of contenders that measured the same figures."""
    figures = list(found.figures[names[0]][0])
    digits = [0 if "MB" in figure else 1 if "/s" in figure else 2 for figure in figures]
    rows = [
        [name, *(spread(found.of(name, f), d) for f, d in zip(figures, digits, strict=True))]
        for name in names
    ]
    return markdown(["", *figures], rows)


def peer_bars(found: Results, ours: Sequence[str], least: Mapping[str, float]) -> list[str]:
    """Hold ours against every peer: at least as fast, if `least` does not ask for more."""
    peers = [who.name for who in found.who_measured("images") if who.is_peer]
    best = max(peers, key=found.median)
    return [
        bar(f"{own}, images/s against {name}{', the best peer' if name == best else ''}",
            found.ratio(own, name), least.get(name, 1.0))
        for own in ours for name in peers
    ]  # fmt: skip


def stage_table(columns: Mapping[str, Sequence[Figures]]) -> str:
    """Make the table of what `contest.seconds_by_stage` counted, stage by stage, and the sums."""
    stages = [*dict.fromkeys(stage for rows in columns.values() for stage in rows[0]), "all"]
    summed = [[row | {"all": sum(row.values())} for row in rows] for rows in columns.values()]
    return markdown(
        ("stage", *columns),
        [(stage, *(spread(row[stage] for row in rows) for rows in summed)) for stage in stages],
    )


def contest_section(
    title: str, picture: Path, facts: Mapping[str, str], found: Results, ours: Sequence[str],
    columns: Mapping[str, tuple[str, int]], *, least: Mapping[str, float],
    cells: Mapping[str, Callable[[Contender], str]] | None = None,
    tables: Mapping[str, str] | None = None, bars: Sequence[str] = (),
) -> Section:  # fmt: skip
    """Make the section of a contest: its table, whose first column is plotted, and its bars."""
    plot_bars(picture, title, found, next(iter(columns)))
    shown = {"Contenders": contender_table(found, columns, ours, cells or {})} | dict(tables or {})
    reached = [*peer_bars(found, ours, least), *bars]
    return Section(title, facts, shown, reached, picture.name)


def plot_bars(path: Path, title: str, found: Results, axis: str) -> None:
    """Draw medians with a line from lowest to highest; this project's in colour."""
    from matplotlib.figure import Figure  # late: packing's workers import this module

    order = sorted(found.who_measured("images"), key=lambda who: found.median(who.name))
    drawn = Figure(figsize=(8, 0.8 + 0.36 * len(order)), layout="constrained")
    axes = drawn.subplots()
    for row, who in enumerate(order):
        values, middle = found.of(who.name), found.median(who.name)
        own = "tab:green" if who.name.startswith("ours") else "0.5"  # grey: what cannot be exceeded
        axes.barh(row, middle, color="0.75" if who.is_peer else own)
        axes.plot([min(values), max(values)], [row, row], color="0.25", lw=1)
        label = f"  {middle:,.0f}" if middle >= 100 else f"  {middle:.3g}"
        axes.text(max(values), row, label, va="center", fontsize=8)
    axes.set_yticks(range(len(order)), [who.name for who in order], fontsize=8)
    axes.set(title=title, xlabel=axis)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=110)


@dataclass(frozen=True)
class Panel:
    """Curves by label, each the values of all rounds by x.

    `level` draws a dotted line, `log` names the axes with a logarithmic scale ("x", "xy"), `zero`
    lets the values begin at 0.
    """

    title: str
    x: str
    curves: Mapping[str, Mapping[float, Sequence[float]]]
    level: float | None = None
    log: str = ""
    zero: bool = True


def plot_curves(path: Path, *panels: Panel) -> None:
    """Draw panels side by side, the medians of all rounds."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(max(8, 4 * len(panels)), 4.2), layout="constrained")
    colours: dict[str, str] = {}
    for axes, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, curve in panel.curves.items():
            middles = [statistics.median(values) for values in curve.values()]
            colour = colours.setdefault(label, f"C{len(colours)}")
            axes.plot(list(curve), middles, marker="o", ms=3, label=label, color=colour)
        if panel.level is not None:
            axes.axhline(panel.level, color="0.4", linestyle=":")
        axes.set(xlabel=panel.x, title=panel.title, yscale="log" if "y" in panel.log else "linear")
        if "x" in panel.log:
            ticks = list(next(iter(panel.curves.values())))
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            axes.minorticks_off()
        if panel.zero and "y" not in panel.log:
            axes.set_ylim(0)
        axes.grid(alpha=0.3)
    drawn.axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=110)

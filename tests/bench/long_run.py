"""Memory, threads and open files of a program over time, its children included.

    python tests/bench/long_run.py --minutes 60 --out training.png -- python -m train ...

Writes a plot, prints a line for the second and for the last quarter, and ends with exit code 1 if
memory grew by more than 3 percent between them, or threads or files at all. Before that, a program
fills what it keeps.
"""

import subprocess
import sys
import time
from pathlib import Path

import click
import contest
import numpy as np

FIGURES = ("MB", "threads", "files")
ALLOWED = (1.03, 1.0, 1.0)  # the last quarter over the second


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.option("--minutes", default=60.0, show_default=True, help="Stop the program after so many.")
@click.option("--every", default=5.0, show_default=True, help="Seconds between two looks.")
@click.option("--out", type=contest.PATH, required=True, help="The plot.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(minutes: float, every: float, out: Path, command: tuple[str, ...]) -> None:
    """Run a command and look at it."""
    start, rows = time.monotonic(), []
    with subprocess.Popen(command) as child:
        while child.poll() is None and time.monotonic() - start < 60 * minutes:
            rows.append((time.monotonic() - start, *usage(child.pid)))
            time.sleep(every)
        stopped = child.poll() is None
        child.terminate()
    if child.returncode and not stopped:  # below 0: a signal that we did not send
        raise click.ClickException(f"the command ended with exit code {child.returncode}")
    table = np.array(rows)
    quarters = [part[:, 1:].mean(axis=0) for part in np.array_split(table, 4)]
    for name, figures in (("second", quarters[1]), ("last", quarters[3])):
        words = ", ".join(f"{f:.1f} {u}" for f, u in zip(figures, FIGURES, strict=True))
        click.echo(f"{name} quarter of {table[-1, 0] / 60:.0f} minutes: {words}")
    plot(table, out)
    if (quarters[3] > ALLOWED * quarters[1] + 0.5).any():
        sys.exit(1)


def usage(parent: int) -> np.ndarray:
    """Return megabytes, threads and open files of a process and its descendants."""
    total, waiting = np.zeros(3), [parent]
    while waiting:
        home = Path("/proc", str(waiting.pop()))
        try:
            status = dict(line.split(":", 1) for line in (home / "status").read_text().splitlines())
            memory = int(status.get("VmRSS", "0 kB").split()[0]) / 1024
            total += (memory, int(status["Threads"]), sum(1 for _ in (home / "fd").iterdir()))
            for children in home.glob("task/*/children"):
                waiting += map(int, children.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return total


def plot(table: np.ndarray, out: Path) -> None:
    """Draw the three figures over the minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, values, name in zip(figure.subplots(3, 1, sharex=True), table.T[1:], FIGURES,
                                  strict=True):  # fmt: skip
        axes.plot(table[:, 0] / 60, values)
        axes.set_ylim(0, 1.15 * values.max())
        axes.set_ylabel(name)
    figure.supxlabel("minutes")
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()

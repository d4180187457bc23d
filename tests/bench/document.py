"""Documents of benchmarks: what a run found, with the facts needed to judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Section:
    """What a run found on one set of photographs.

    Attributes
    ----------
    title, facts
        What was measured, on what, with what.
    tables
        Tables in markdown, by heading.
    picture
        Name of the plot, beside the document.
    bars
        The promises, one line each.
    """

    title: str
    facts: Mapping[str, str]
    tables: dict[str, str] = field(default_factory=dict)
    picture: str = ""
    bars: Sequence[str] = ()

    def markdown(self) -> str:
        """Format for the document."""
        lines = [f"## {self.title}", ""]
        lines += [f"- {name}: {fact}" for name, fact in self.facts.items()]
        if self.picture:
            lines += ["", f"![{self.title}]({self.picture})"]
        for heading, table in self.tables.items():
            lines += ["", f"{heading}:", "", table]
        if self.bars:
            lines += ["", "Bars:", "", *(f"- {line}" for line in self.bars)]
        return "\n".join(lines)


def write_document(path: Path, title: str, text: str, sections: Sequence[Section]) -> None:
    """Write a document: the text that people wrote, then what was measured."""
    note = "*Written by `make bench`: its text is in `tests/bench`.*"
    body = "\n\n".join(section.markdown() for section in sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {title}\n\n{text.strip()}\n\n{note}\n\n{body}\n")


def slug(data: Path | None) -> str:
    """Name a set of photographs in file names."""
    return "made-up" if data is None else data.name.removesuffix(".zip").replace(" ", "-")

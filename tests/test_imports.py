"""Imports go one way, help is instant, and every command stands in the docs."""

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import infer.cli
import preprocess.cli
import train.cli

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "preprocess": {"preprocess"},
    "train": {"preprocess", "train"},
    "infer": {"preprocess", "train", "infer"},
}
HEAVY = {"torch", "cv2", "numpy", "nvidia", "webdataset", "matplotlib", "PIL", "simplejpeg"}
GROUPS = {"preprocess": preprocess.cli.main, "train": train.cli.main, "infer": infer.cli.main}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way_and_packing_needs_no_torch(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        others = imported(path) & (MAY_IMPORT.keys() | {"tests"})
        assert others <= MAY_IMPORT[package], f"{path} imports {others - MAY_IMPORT[package]}"
        assert package != "preprocess" or "torch" not in imported(path), path


def commands() -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for package, command in GROUPS.items():
        found.append((package, []))
        if isinstance(command, click.Group):
            found += [(package, [name]) for name in command.commands]
    return found


@pytest.mark.parametrize(("package", "words"), commands())
def test_every_command_has_help_and_stands_in_the_docs(package: str, words: list[str]) -> None:
    done = CliRunner().invoke(GROUPS[package], [*words, "-h"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 5
    default = {"preprocess": "pack", "train": "fit", "infer": "photos"}.get(package)
    shown = [word for word in words if word != default]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(" ".join(["python -m", package, *shown]) in page.read_text() for page in pages)


@pytest.mark.parametrize("package", GROUPS)
def test_version_is_the_packages(package: str) -> None:
    done = CliRunner().invoke(GROUPS[package], ["--version"])
    assert done.output.rstrip().endswith(infer.__version__)


@pytest.mark.parametrize("package", GROUPS)
def test_help_imports_nothing_heavy(package: str) -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']\n"
        f"import {package}.cli\n"
        f"try: {package}.cli.main()\n"
        f"except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr

"""Imports go one way, help is instant, and every command stands in the docs."""

import ast
from pathlib import Path

import pytest
from common import call, loaded

import infer.cli
import preprocess.cli
import train.cli

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "preprocess": {"preprocess"},
    "train": {"preprocess", "train"},
    "infer": {"preprocess", "train", "infer"},
}
HEAVY = {"torch", "cv2", "numpy", "nvidia", "webdataset", "matplotlib", "PIL", "simplejpeg",
         "obstore", "pyarrow", "ray"}  # fmt: skip
GROUPS = {"preprocess": preprocess.cli.main, "train": train.cli.main, "infer": infer.cli.main}
PAGES = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


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


@pytest.mark.parametrize("package", GROUPS)
def test_every_command_has_help_and_stands_in_the_docs(package: str) -> None:
    group = GROUPS[package]
    assert call(group, "--version").output.rstrip().endswith(infer.__version__)
    for name in ("", *group.commands):
        done = call(group, *name.split(), "-h")
        assert done.exit_code == 0
        assert len(done.output.splitlines()) > 5
        word = "" if name == group.default else f" {name}".rstrip()
        assert f"python -m {package}{word}" in PAGES


@pytest.mark.parametrize("package", GROUPS)
def test_help_imports_nothing_heavy(package: str) -> None:
    assert not HEAVY & loaded(package, "--help")

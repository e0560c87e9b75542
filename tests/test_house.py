"""The house's own rules: which way imports point, how long a file is, where choices are told."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "residual"

LAYERS = [
    {"locks"},
    {"storage", "distributed"},
    {"device"},
    {"models", "data"},
    {"training"},
    {"weights"},
    {"runs"},
    {"tasks.classification", "tasks.detection"},  # neither knows the other
    {"analysis", "preparation"},
    {"export"},
    {"api", "server"},
    {"reproduction"},  # so high that nothing which produces a number can see the printed ones
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError("a relative import hides which way it points")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(names: Sequence[str]) -> str:
    """The part of the package that a module belongs to; each task is one."""
    return ".".join(names[:2]) if names[0] == "tasks" else names[0]


def breaches(root: Path, longest: int = 400) -> Iterator[str]:
    """Each import that points sideways or up, and each file that is too long."""
    for file in sorted(root.rglob("*.py")):
        own, text = part(file.relative_to(root).with_suffix("").parts), file.read_text()
        if text.count("\n") > longest:
            yield f"{file.name} has more than {longest} lines"
        for name in imported(ast.parse(text)):
            package, *names = [*name.split("."), ""]
            other = part(names)
            ours = package == "residual" and own in LEVEL and other in LEVEL and other != own
            if ours and LEVEL[other] >= LEVEL[own]:
                yield f"{own} must not know {other} ({file.name})"


def test_imports_point_down_and_no_file_is_too_long():
    assert not list(breaches(PACKAGE))


def module_imports(root: Path) -> dict[str, set[str]]:
    """Which modules of the package each module imports, also inside functions; not for types."""
    files = {
        ".".join((root.name, *file.relative_to(root).with_suffix("").parts)): file
        for file in sorted(root.rglob("*.py"))
    }
    imports = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        names = {part for path in imported(tree) for part in (path, path.rpartition(".")[0])}
        imports[name] = names & files.keys() - {name}
    return imports


def circles(root: Path) -> list[str]:
    """The modules that import each other in a circle, or such modules."""
    imports = module_imports(root)
    while leaves := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in leaves:
            del imports[name]
    return list(imports)


def test_no_files_import_each_other_in_a_circle(tmp_path):
    assert circles(PACKAGE) == []
    (tmp_path / "residual").mkdir()
    for name, other in ("ab", "ba"):
        text = f"def f():\n    from residual import {other}\n"
        (tmp_path / "residual" / f"{name}.py").write_text(text)
    assert circles(tmp_path / "residual") == ["residual.a", "residual.b"]


def test_every_part_of_the_package_has_its_layer():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    tasks = {f"tasks.{path.name}" for path in (PACKAGE / "tasks").iterdir() if path.is_dir()}
    rest = {"__init__", "__main__", "__pycache__", "tasks"}
    assert (parts | tasks) - rest - {"tasks.__pycache__"} <= LEVEL.keys()


@pytest.mark.parametrize(
    "line", ["from residual.runs.folder import save", "import residual.reproduction.paper"]
)
def test_an_import_that_points_up_is_caught(tmp_path, line):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "blocks.py").write_text(line + "\n")
    assert list(breaches(tmp_path))


def test_a_file_of_401_lines_is_caught(tmp_path):
    (tmp_path / "long.py").write_text("\n" * 401)
    assert list(breaches(tmp_path)) == ["long.py has more than 400 lines"]


def test_the_evening_path_is_twenty_files_and_3200_lines():
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Reading the code") : text.index("[docs/architecture.md]")]
    names = re.findall(r"^ ?\d+  ([a-z0-9_/]+\.py) {2,}\w", section, re.MULTILINE)
    assert len(names) == len(set(names)) == 20
    assert sum((PACKAGE / name).read_text().count("\n") for name in names) <= 3200


def test_a_class_name_occurs_once():
    names = [
        node.name
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name in names if names.count(name) > 1] == []


def test_a_module_is_named_by_a_noun():
    """Of words on -ing the field has two names of things: training and early stopping."""
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    names = {name for path in paths for name in path.with_suffix("").parts}
    assert {name for name in names if name.endswith("ing")} == {"training", "early_stopping"}


def test_the_package_grows_no_further():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) <= 156 and sum(file.read_text().count("\n") for file in files) <= 24_969


def test_tests_and_benchmarks_are_no_longer_than_the_package_may_be():
    for folder in ("tests", "benchmarks", "docs/build"):
        assert not [breach for breach in breaches(ROOT / folder) if "lines" in breach]


def test_a_choice_is_collected_with_all_its_lines(tmp_path):
    from docs.build.choices import choices_page

    (tmp_path / "a.py").write_text("x = 1\n# Choice: this\n# and that.\n    # Deviation: so.\n")
    text = choices_page(tmp_path)
    assert "- **Choice:** this and that.\n- **Deviation:** so.\n" in text


def test_nothing_that_computes_results_reads_the_printed_ones():
    readers = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if "residual.reproduction.paper" in imported(ast.parse(file.read_text()))
    }
    shown = {f"reproduction/{name}.py" for name in ("tables", "detection_tables", "figures")}
    assert readers == shown | {"reproduction/catalog.py", "cli/models.py"}


def test_importing_the_package_and_its_commands_imports_nothing_heavy():
    code = "import residual.cli.app, sys; print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = ("'torch'", "'torchvision'", "'matplotlib'", "'sklearn'", "'scipy'", "'numpy'")
    assert not [name for name in heavy if name in loaded.stdout]

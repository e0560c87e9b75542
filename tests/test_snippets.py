"""The commands and Python snippets of README.md and docs/: each is checked or executed."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from conftest import FORK
from made_servers import serving

from residual.cli.app import app
from residual.models.registry import model_spec
from residual.tasks.classification import baseline_recipes
from residual.tasks.classification import recipe as classification
from residual.tasks.classification.protocols import PROTOCOLS
from residual.tasks.detection import recipe as detection
from residual.training.recipe import parse_assignment

ROOT = Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
LAUNCHERS = ("python -m residual", "-m residual", "srun residual", "residual")
# What is no command of ours: shell syntax, pip, git and the like are typed as they are.
OTHERS = (
    "python3 -m venv",
    "source",
    "pip install",
    "if ",
    "else",
    "fi",
    "RUN=",
    "cd ",
    "git ",
    "curl ",
)
SERVER = "http://127.0.0.1:8000"
COMMANDS = typer.main.get_command(app)
CLASSIFICATION = classification.RECIPES | baseline_recipes.RECIPES


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(block: str) -> Iterator[str]:
    """The lines of a block of shell without comments; continued lines are one."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield shlex.join(words)


def arguments(line: str) -> list[str] | None:
    """The words behind `residual`, whatever launches it; None for another command."""
    for launcher in LAUNCHERS:
        start, match, rest = f" {line} ".partition(f" {launcher} ")
        if match and (not start.strip() or launcher != "residual"):
            return shlex.split(rest)
    return None


def check_command(words: list[str]) -> None:
    """Raises for an unknown command, option, network, recipe, protocol or field."""
    command, name = COMMANDS, []
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no command {' '.join([*name, *words])}"
        command, words = command.commands[words[0]], words[1:]
        name.append(command.name)
    values = command.make_context(" ".join(name), words).params
    kind, recipes = classification.ClassificationRecipe, CLASSIFICATION
    if "detect" in name:
        kind, recipes = detection.DetectionRecipe, detection.RECIPES
    for text in values.get("set_") or ():
        if not text.endswith("=..."):
            parse_assignment(kind, text)
    networks = [values.get("network"), *(values.get("networks") or ())]
    for network in filter(None, networks):
        if not network.isupper():
            model_spec(network)
    if (recipe := values.get("recipe", "auto")) != "auto":
        assert recipe in recipes, f"no recipe {recipe}"
    if "protocol" in values:
        assert values["protocol"] in PROTOCOLS


def check_line(line: str) -> None:
    """Raises for a line of shell that is wrong, or of a kind that this test does not know."""
    words = arguments(line)
    if words is not None:
        check_command(words)
    elif line.startswith("make "):
        assert {word for word in line.split()[1:] if "=" not in word} <= set(TARGETS), line
    elif module := re.match(r"\S*python -m (benchmarks\.\w+)", line):
        assert (ROOT / f"{module[1].replace('.', '/')}.py").exists(), line
    else:
        assert line.startswith(OTHERS), f"what is {line!r}?"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_exists_with_its_options_fields_and_names(page):
    for block in blocks(page, "sh"):
        for line in lines(block):
            check_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "residual trains resnet20",
        "residual train resnet20 --data cifar10 --stepps 3",
        "residual train resnet21",
        "residual train resnet20 --set weight_dekay=1",
        "residual train resnet20 --recipe imagenett",
        "residual detect train resnet18 --data cells --set padding=1",
        "residual evaluate RUN --protocol 11crop",
        "torchrun --nproc-per-node 8 -m residual train resnet50 --dat imagenet",
        "make nothing",
        "residul train resnet20",
    ],
)
def test_a_wrong_line_is_found(line):
    usage_error = typer.BadParameter.__base__  # of typer's click, wherever a version keeps it
    with pytest.raises((AssertionError, ValueError, usage_error)):
        check_line(line)


def test_a_wrong_line_behind_a_comment_or_an_end_of_line_is_found():
    (line,) = lines("residual train resnet20 \\\n    --nope  # on digits\n")
    assert line == "residual train resnet20 --nope"


def test_inline_commands_of_the_pages_exist():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
        for text in re.findall(r"`residual ([a-z][^`]*)`", prose):
            words = [word for word in shlex.split(text) if not word.isupper()]
            command = COMMANDS
            while words and hasattr(command, "commands"):
                assert words[0] in command.commands, f"{page}: residual {text}"
                command = command.commands[words.pop(0)]
            options = {name for option in getattr(command, "params", ()) for name in option.opts}
            assert {w for w in words if w.startswith("--")} <= options | {"--help"}, text


PYTHON = [(page, n) for page in PAGES for n in range(len(blocks(page, "python")))]


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished) -> Path:
    """A folder with the files that the snippets name: pictures, a model, a run."""
    from PIL import Image

    from residual.export.classifier import write_onnx
    from residual.tasks.classification.load import load

    folder = tmp_path_factory.mktemp("snippets")
    for name in ("a.png", "b.jpg", "picture.png", "digit.png"):
        Image.new("RGB", (32, 32), (90, 120, 150)).save(folder / name)
    pytest.importorskip("onnxruntime")
    write_onnx(load(finished), folder / "model.onnx", True)
    (folder / "runs").mkdir()
    (folder / "runs" / "resnet20-1").symlink_to(finished)
    return folder


def run_code(code: str, folder: str) -> None:
    """Run Python code in a folder; what it prints to stderr is in the file err."""
    os.chdir(folder)
    os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT), 2)
    exec(compile(code, "<snippet>", "exec"), vars(sys.modules["__main__"]))


@pytest.mark.parametrize(("page", "n"), PYTHON, ids=str)
def test_every_python_snippet_runs(page, n, place, tmp_path):
    """In a process and a folder of its own; long trainings are shortened."""
    code = blocks(page, "python")[n].replace("steps=300", "steps=2")
    shutil.copytree(place, tmp_path / "here", symlinks=True)
    with ExitStack() as stack:
        if SERVER in code:
            pytest.importorskip("fastapi", reason="needs the extra serve")
            server = stack.enter_context(serving(tmp_path, tmp_path / "here/runs/resnet20-1"))
            code = code.replace(SERVER, server.address)
        child = FORK.Process(target=run_code, args=(code, str(tmp_path / "here")))
        child.start()
        child.join(120)
    assert child.exitcode == 0, f"{page}, block {n + 1}: {(tmp_path / 'here' / 'err').read_text()}"

"""The wheel: every file of the package is in it, and nothing else."""

import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> ZipFile:
    """Built by the setuptools of this environment, from a copy of the source."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(
        ROOT / "residual", source / "residual", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, out], cwd=source, check=True, capture_output=True)
    (file,) = out.glob("residual_learning-*-py3-none-any.whl")
    return ZipFile(file)


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "residual").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"residual/py.typed", "residual/analysis/report.html.j2"} <= files
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files


def test_the_wheel_names_the_command_the_licence_and_what_it_requires(wheel):
    def content(name: str) -> str:
        (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
        return wheel.read(path).decode()

    assert "residual = residual.cli.app:main" in content("entry_points.txt")
    metadata = Parser().parsestr(content("METADATA"))
    assert metadata["License-Expression"] == "MIT" and metadata["Requires-Python"] == ">=3.11"
    assert {"all", "cloud", "deploy", "detection", "dev", "docs"} <= {
        *metadata.get_all("Provides-Extra", [])
    }
    assert "Deep Residual Learning" in metadata.get_payload()
    assert "MIT" in content("licenses/LICENSE")

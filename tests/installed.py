"""The wheel in a fresh environment: `residual --help`, a short training, and predictions.

`make check-package` borrows the packages of `.venv`, so it takes seconds; without `--borrow`,
pip installs all that the wheel requires.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from urllib.request import urlopen

from PIL import Image


def check(wheel: Path, place: Path, borrow: bool) -> None:
    """Raises CalledProcessError or AssertionError if the installed wheel does not work."""
    environment = place / "environment"
    run(sys.executable, "-m", "venv", *["--without-pip"] * borrow, environment, cwd=place)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(*pip, "install", "--quiet", *["--no-deps"] * borrow, wheel, cwd=place)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                        cwd=place).strip())  # fmt: skip
    if borrow:  # the editable residual among them is not, because its own .pth file is not read
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    file = run(python, "-c", "import residual; print(residual.__file__)", cwd=place)
    assert Path(file.strip()) == packages / "residual" / "__init__.py", file
    residual = environment / "bin" / "residual"
    assert "reproduce" in run(residual, "--help", cwd=place)
    run(residual, "train", "resnet8", "--steps", "20", "--out", "run", cwd=place)
    Image.new("RGB", (32, 32)).save(place / "black.png")
    (answer,) = json.loads(run(residual, "predict", "run", "black.png", "--json", cwd=place))
    assert {label["label"] for label in answer["labels"]} <= set("0123456789"), answer
    assert (place / "run" / "result.json").exists()
    shipped = [residual, "predict", "resnet20.cifar10", "black.png", "--json"]
    assert len(json.loads(run(*shipped, cwd=place))[0]["labels"]) == 5
    run(residual, "report", "run", cwd=place)  # its template is a file of the wheel
    if borrow:  # else the extra `serve` is not installed
        check_server([residual, "serve", "run", "--port", "0"], place)


def check_server(command: list[object], place: Path) -> None:
    """Raises AssertionError if the server of the wheel does not answer or lacks its page."""
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = str(server.stdout and server.stdout.readline()).split()[2]
            for path, part in (
                ("/", b"page.js"),
                ("/static/page.js", b"fetch"),
                ("/health", b"ok"),
            ):
                with urlopen(address + path) as answer:
                    assert part in answer.read(), path
        finally:
            server.terminate()
    assert server.returncode == 143


def run(*words: object, cwd: Path) -> str:
    """The output of a command."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the wheel lies")
    parser.add_argument("--borrow", action="store_true", help="use the packages of this Python")
    options = parser.parse_args()
    (wheel,) = options.folder.resolve().glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        check(wheel, Path(folder).resolve(), options.borrow)
    print(f"{wheel.name} works in an environment of its own")

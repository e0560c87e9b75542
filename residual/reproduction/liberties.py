"""The liberties that the code takes, from its comments."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path


def liberties(package: Path) -> str:
    """docs/liberties.md: every `Choice:` and `Deviation:` comment, where it stands."""
    lines = [
        "# Liberties",
        "",
        "Where the paper is silent we choose; where we differ from it we deviate. Each such place "
        "is a comment in the code, and `make results` draws this list from those comments.",
    ]
    for file in sorted(package.rglob("*.py")):
        found = list(comments(file.read_text()))
        if found:
            lines += ["", f"## {file.relative_to(package.parent).as_posix()}", ""]
            lines += [f"- {text}" for text in found]
    return "\n".join(lines) + "\n"


def comments(source: str) -> Iterator[str]:
    """Each comment that begins with Choice: or Deviation:, its lines joined."""
    gathered: list[str] = []
    for line in [*source.splitlines(), ""]:
        text = line.strip()
        opens = re.match(r"# ((?:Choice|Deviation): .*)", text)
        if gathered and (opens or not text.startswith("#")):
            yield " ".join(gathered)
            gathered = []
        if opens:
            gathered = [f"**{opens[1].split(':')[0]}:**{opens[1].split(':', 1)[1]}"]
        elif gathered:
            gathered.append(text.removeprefix("#").strip())


def above(source: str, name: str) -> str:
    """The comment right above the line that gives a constant its value."""
    lines = source.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
    start = end
    while lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start:end])


def chosen(package: Path, sources: Sequence[str]) -> list[str]:
    """The liberties in some files of the package; of `file#NAME` only those above that constant."""
    found: list[str] = []
    for source in sources:
        file, _, name = source.partition("#")
        text = (package / file).read_text()
        found += comments(above(text, name) if name else text)
    return found

"""docs/choices-and-deviations.md, and those of a page, from the comments of the code."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from residual.cli import models


def choices_page(package: Path) -> str:
    """docs/choices-and-deviations.md: every `Choice:` and `Deviation:` comment of each file."""
    lines = [
        "# Choices and deviations",
        "",
        "A `Choice` fills a gap in the paper; a `Deviation` differs from the paper. Each of them "
        "is a comment in the code, and `make results` collects this list from the comments.",
    ]
    for file in sorted(package.rglob("*.py")):
        if items := list(bullets(file.read_text())):
            lines += ["", f"## {file.relative_to(package.parent).as_posix()}", "", *items]
    return "\n".join(lines) + "\n"


def bullets(source: str) -> Iterator[str]:
    for text in models.choices(source):
        kind, _, rest = text.partition(":")
        yield f"- **{kind}:**{rest}"


def choices_of(package: Path, sources: Sequence[str]) -> str:
    """Choices and deviations of files; of `FILE#CONSTANT` only those right above the constant."""
    items: list[str] = []
    for source in sources:
        file, _, constant = source.partition("#")
        text = (package / file).read_text()
        items += bullets(comment_above(text, constant) if constant else text)
    return "\n".join(items)


def comment_above(source: str, constant: str) -> str:
    lines = source.splitlines()
    end = next(i for i, line in enumerate(lines) if re.match(rf"{constant}\b.* = ", line))
    start = end
    while lines[start - 1].startswith("#"):
        start -= 1
    return "\n".join(lines[start:end])

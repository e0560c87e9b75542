"""The hook of mkdocs.yml: links that leave docs/ work in the site as they work on GitHub."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FIGURES = "results/figures"
LINK = re.compile(rf"\]\(\.\./{FIGURES}/")


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of results/figures to the site."""
    folder = Path(config.docs_dir).parent / FIGURES
    for picture in sorted(folder.glob("*.png")):
        name = f"figures/{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to results/figures point into the site."""
    return LINK.sub("](figures/", markdown)

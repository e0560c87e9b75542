"""The site of docs/: it builds without a warning, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "srcset"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material, of the extra docs, is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode and "WARNING" not in done.stderr, done.stderr
    return folder


class Loaded(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADED and values.get("rel") != "canonical":
            self.addresses.append(values.get(LOADED[tag]) or "")


def test_every_page_is_in_the_site_with_what_it_loads(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    built = sorted(site.glob("*.html"))
    assert {path.stem for path in built} == pages | {"index", "404"}
    for page in built:
        if page.stem == "404":
            continue  # its addresses begin at the root of a server
        for address in filter(None, Loaded(page.read_text()).addresses):
            assert "//" not in address, f"{page.name} loads {address}"
            assert (site / address.partition("?")[0]).exists(), f"{page.name} has no {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", style.read_text())
    assert not list(site.rglob("*.py"))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\ntheme:")[0]
    named = re.findall(r"[\w-]+\.md", navigation)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_every_link_of_the_repository_leads_to_a_file():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in [*pages, *(ROOT / "benchmarks").rglob("*.md")]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for address in re.findall(r"\]\(([^)\s]+)\)", prose):
            path = address.partition("#")[0]
            if path and "://" not in path:
                assert (page.parent / path).exists(), f"{page.relative_to(ROOT)}: {address}"

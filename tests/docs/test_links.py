"""Links between pages, to files of the repository and to headings lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import FENCED, ROOT, pages

LINK = re.compile(r"\]\(([^)\s]+)\)")
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md", "benchmarks/NOTES.md")


def linked(page: Path) -> list[str]:
    """Targets in the repository."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return [target for target in LINK.findall(text) if "://" not in target]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"(?m)^#{1,6} (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*pages(), *(ROOT / name for name in OTHERS)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    for target in linked(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in headings(file), f"{page.name}: {target}"


def test_every_page_is_in_the_contents_and_in_the_site_s_navigation():
    contents = {
        (ROOT / "docs" / target.partition("#")[0]).resolve() for target in linked(ROOT / "docs/index.md")
    }
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "index.md" and page.parent.name == "docs" or page in contents, page
        assert f": {page.relative_to(ROOT / 'docs')}\n" in navigation


def test_readme_fits_on_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 900

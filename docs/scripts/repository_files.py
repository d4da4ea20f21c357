"""A hook of MkDocs: files of the repository outside docs/ that pages link to become part of the site.

Links are relative to the repository, as on GitHub: `../../benchmarks/NOTES.md`. Here each such file gets a
place below `repository/`, Markdown as a page, and links are rewritten. One to a folder becomes plain text.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS, OUTSIDE = "docs/", "repository/"
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file outside docs/ that a page, or a page so added, links to."""
    waiting = [DOCS + file.src_uri for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        source = waiting.pop()
        for target in _targets(source):
            if target in known or target.startswith(DOCS) or not (ROOT / target).is_file():
                continue
            known.add(target)
            files.append(File.generated(config, OUTSIDE + target, abs_src_path=str(ROOT / target)))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite the links of a page to where their targets are in the site."""
    here = page.file.src_uri
    source = here.removeprefix(OUTSIDE) if here.startswith(OUTSIDE) else DOCS + here

    def rewritten(match: re.Match[str]) -> str:
        text, link, anchor = match.groups()
        if "://" in link or link.startswith("mailto:"):
            return match.group(0)
        target = _resolved(source, link)
        if (ROOT / target).is_dir():
            return text
        place = target.removeprefix(DOCS) if target.startswith(DOCS) else OUTSIDE + target
        relative = os.path.relpath(place, PurePosixPath(here).parent)
        return f"[{text}]({relative}{anchor or ''})"

    return LINK.sub(rewritten, markdown)


def _targets(source: str) -> list[str]:
    found = LINK.findall((ROOT / source).read_text(encoding="utf-8"))
    return [_resolved(source, link) for _, link, _ in found if "://" not in link]


def _resolved(source: str, link: str) -> str:
    """The target of a link, from the top of the repository."""
    return os.path.normpath(PurePosixPath(source).parent / link)

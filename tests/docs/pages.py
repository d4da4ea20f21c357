"""The pages that people read: README and docs/, with their blocks of code and their links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?m)(?:^<!-- ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL)
FENCED = re.compile(r"(?ms)^```.*?^```$")
GENERATED = "Written by docs/scripts/reference.py"


@dataclass(frozen=True)
class Block:
    """A block of code: its page, the line it begins in, what is said of it before it, and its text."""

    page: Path
    line: int
    note: str
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Why it is not run, if it is said."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None

    @property
    def runner(self) -> str | None:
        """The test that runs it, if one is named."""
        return self.note.removeprefix("run by: ") if self.note.startswith("run by: ") else None


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The page's blocks of code."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, *(group or "" for group in found.groups()))
        for found in BLOCK.finditer(text)
    ]


def code() -> list[Block]:
    """All blocks of shell and Python, but for signatures in pages that are written from the code."""
    written = [page for page in pages() if GENERATED not in page.read_text(encoding="utf-8")]
    return [b for page in written for b in blocks(page) if b.language in ("sh", "bash", "python", "py")]

"""Markdown from texts of the code."""

import inspect
import re
from collections.abc import Iterable, Sequence

GENERATED = (
    "<!-- Written by docs/scripts/reference.py from the code; change it there, then `make reference`. -->"
)


def page(title: str, *parts: str) -> str:
    """A page: its title, the note that it is generated, and its parts with an empty line between them."""
    return "\n\n".join([f"# {title}", GENERATED, *(part.strip("\n") for part in parts if part)]) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; pipes and line breaks in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def prose(text: str | None) -> str:
    """A docstring: paragraphs in one line each, indented code as it is, <name> as it is."""
    parts = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        code = all(line.startswith("    ") for line in part.splitlines())
        parts.append(part if code else visible(" ".join(part.split())))
    return "\n\n".join(parts)


def visible(text: str) -> str:
    """The text with `<` as itself, and stars not as emphasis, outside code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if number % 2 else piece.replace("<", "&lt;").replace("*", "\\*")
        for number, piece in enumerate(pieces)
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

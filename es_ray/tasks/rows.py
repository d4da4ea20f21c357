"""What reading data gives: rows of named fields, and where each was read. What they mean is left open."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows in the order of their file, each a mapping of fields, and where each was read.

    source: the file's name; unit: what `places` count from 1, the lines of a text or the rows of a table.
    """

    source: str
    unit: str
    rows: list[Row]
    places: Sequence[int]

    def where(self, number: int) -> str:
        """File and line of a row, for messages; number: the row's, from 0."""
        return f"{self.source}, {self.unit} {self.places[number]}"

"""What a file of examples seems to be, where it is no JSONL: for messages."""

import re
from pathlib import Path
from typing import Final

WANTED: Final = "JSONL is wanted: on each line an object with prompt and target"

BINARY: Final = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xff\xfe": "UTF-16 text, not UTF-8",
    b"\xfe\xff": "UTF-16 text, not UTF-8",
}
"""By the first bytes."""
TEXT: Final = {
    rb"\s*\[\s*(\{|\]\s*$)": "a JSON array",
    rb"\s*\{\s*$": "one JSON object over several lines",
    rb'"?\w[\w .-]*"?([,;\t]"?\w[\w .-]*"?)+\s*$': "a CSV file",
    rb"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)",
    rb"\s*<(!doctype|html|\?xml)": "a web page or XML",
}
"""By the first line, a pattern; none of them fits a line of JSONL."""
HEAD: Final = 4096


def other_kind(path: Path, content: bytes) -> str | None:
    """What a file seems to be if it is no JSONL, as the end of "it seems to be"; None if it may be JSONL."""
    for start, kind in BINARY.items():
        if content.startswith(start):
            return kind
    if b"\0" in content[:4]:
        return "UTF-16 text without its mark, or no text at all"
    head = content[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    first, _, _ = head.partition(b"\n")
    if path.suffix.lower() in (".csv", ".tsv") and not first.startswith(b"{"):
        return "a CSV file"
    opened = head if first.strip() == b"[" else first
    return next((kind for form, kind in TEXT.items() if re.match(form, opened, re.IGNORECASE)), None)

"""Reads run-ID.wandb, which W&B writes offline: protobuf records in the blocks of a LevelDB log.

A header of seven bytes; blocks of 32 KiB; in them pieces of [checksum 4][length 2][kind 1], where kind is
whole (1), first (2), middle (3) or last (4).
"""

import json
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD = 32768, 7


def records(file: Path) -> list[Record]:
    """All records of a file."""
    data, at, found, parts = file.read_bytes(), HEAD, [], b""
    assert data[:4] == b":W&B"
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(file: Path) -> list[dict]:
    """The logged rows, as W&B shows them."""
    rows = [record.history for record in records(file) if record.WhichOneof("record_type") == "history"]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def of_type(file: Path, kind: str) -> list:
    """The records of a type: run, config, summary, exit, ..."""
    return [getattr(record, kind) for record in records(file) if record.WhichOneof("record_type") == kind]

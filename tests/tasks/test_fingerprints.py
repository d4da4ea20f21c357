"""What examples are known by: every value that a table may hold, and a change of any of them."""

import hashlib
import json
from collections import UserDict
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest

from es_ray.errors import UserError
from es_ray.tasks.fingerprints import CHUNK, digest

VALUES = [
    (b"ab", b"ac"),
    (date(2026, 1, 2), date(2026, 1, 3)),
    (datetime(2026, 1, 2, 3), datetime(2026, 1, 2, 4)),
    (time(1, 2), time(1, 3)),
    (timedelta(seconds=1), timedelta(seconds=2)),
    (Decimal("0.10"), Decimal("0.11")),
    (UUID(int=1), UUID(int=2)),
    (np.float32(0.5), np.float32(0.25)),
    (np.arange(3), np.arange(4)),
    (UserDict(a=1), UserDict(a=2)),
]


def rows(value: object) -> list[dict]:
    return [{"prompt": "Why?", "metadata": {"value": value}}]


@pytest.mark.parametrize(("one", "other"), VALUES, ids=lambda value: type(value).__name__)
def test_any_value_of_a_table_counts(one, other):
    assert digest(rows(one)) == digest(rows(one))
    assert digest(rows(one)) != digest(rows(other))


def test_it_is_the_sha_256_of_json_however_many_rows_there_are():
    many = [{"prompt": f"{number}", "target": number} for number in range(2 * CHUNK + 1)]
    text = json.dumps(many, sort_keys=True, separators=(",", ":"))
    assert digest(many) == hashlib.sha256(text.encode()).hexdigest()
    assert digest(rows(np.arange(3))) == digest(rows([0, 1, 2]))


def test_a_value_that_json_has_no_form_for_is_refused():
    with pytest.raises(UserError, match="cannot be compared between runs: .*object"):
        digest(rows(object()))

"""Text of a model or a user on a page: what cannot be seen is written out, and what is long is cut."""

import re
from typing import Final

from markupsafe import Markup

from es_ray.judge.table import formatted

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]"
)
"""Control characters, invisible ones, marks that turn the direction of writing, halves of surrogate pairs.

Not U+200C and U+200D, which join and part letters of Persian, of Indian scripts, and emoji.
"""


def visible(text: str) -> str:
    r"""A text with characters that cannot be shown, or that move what is beside them, as escapes.

    >>> visible("a\x1b[0m\u202eb")
    'a\\x1b[0m\\u202eb'
    """
    return _UNSEEN.sub(lambda found: _escape(ord(found.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown(value: object) -> object:
    """What the template prints for a value: markup as it is, texts with escapes, others as they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def cut(text: str, most: int) -> str:
    """The start of a text, with how much is left out.

    >>> cut("abcdef", 4), cut("abc", 4)
    ('abcd … (2 more characters)', 'abc')
    """
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def number(name: str, value: float) -> str:
    """A reward or a metric, as everywhere, with a minus sign that is as wide as a digit.

    >>> number("reward", -97.75), number("correct", 1.0)
    ('−97.75', '100%')
    """
    return formatted(name, value).replace("-", "−", 1) if value < 0 else formatted(name, value)

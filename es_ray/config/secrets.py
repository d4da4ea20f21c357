"""What must not leave a run directory with its configuration or its command line: secrets, by their names.

Reports, trackers and cards are passed on more readily than a folder. What has the name of a secret is masked
whole, whatever its form; in other texts, what stands beside such a name, and logins in URLs.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

MASK: Final = "***"

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ANYWHERE: Final = re.compile(
    r".*(secret|password|passwd|passphrase|pwd|credential|authorization|bearer|cookie"
    r"|(api|access|private|auth)(key|token))s?"
)
"""Words that make a name one of a secret wherever they are in it."""
_LAST: Final = ("auth", "key", "keys", "pass", "token", "tokens")
_ORDINARY: Final = re.compile(r"(.*_)?(bos|cls|eos|mask|pad|sep|special|stop|unk)_tokens?")
"""A tokenizer's tokens."""

_USERINFO: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#]*@")
_BEARER: Final = re.compile(r"(?i)\b(bearer\s+)(?=\S*\d)\S{12,}")
_NAMED: Final = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)[\"']?\s*([:=])\s*")
"""`name=` or `"name": ` in a text."""
_VALUES: Final = {
    "=": re.compile(r"""(?i)"[^"]*"|'[^']*'|(?:(?:bearer|basic)\s+)?[^\s&;,"'}]*"""),
    ":": re.compile(r""""[^"]*"|'[^']*'|[^\n]*"""),
}
"""What follows it: for all that is known, words to the end of the line."""
_SIGNATURES: Final = ("sig", "x-amz-signature", "x-goog-signature")
"""Of URLs that let in whoever has them."""


def is_secret(name: str) -> bool:
    """Whether a key, an option or a variable has the name of a secret; of a dotted key, any part of it.

    >>> [is_secret(name) for name in ("AWS_SECRET_ACCESS_KEY", "--hub-token", "openaiKey.value")]
    [True, True, True]
    >>> [is_secret(name) for name in ("tokenizer", "token_type", "keyboard", "eos_token")]
    [False, False, False, False]
    """
    return any(map(_is_secret, name.split(".")))


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or _ORDINARY.fullmatch("_".join(words)):
        return False
    return words[-1] in _LAST or any(_ANYWHERE.fullmatch(word) for word in words)


def masked_tree(tree: Any) -> Any:
    """A copy of plain values, as YAML gives them, with MASK for each secret; None, true and false stay.

    >>> masked_tree({"api_key": {"value": "sk-1"}, "max_new_tokens": 64, "url": "https://me:pw@host/x"})
    {'api_key': '***', 'max_new_tokens': 64, 'url': 'https://***@host/x'}
    """
    if isinstance(tree, Mapping):
        return {
            key: _hidden(str(key), value) if is_secret(str(key)) else masked_tree(value)
            for key, value in tree.items()
        }
    if isinstance(tree, (list, tuple)):
        return [masked_tree(item) for item in tree]
    return masked_text(tree) if isinstance(tree, str) else tree


def _hidden(name: str, value: Any) -> Any:
    """A secret's value: that it is unset, or a switch, is none; and a number of tokens is a count."""
    if value is None or isinstance(value, bool) or value in ("", {}, []) or _is_count(name, value):
        return value
    return MASK


def _is_count(name: str, value: object) -> bool:
    """`max_new_tokens`, also as text."""
    if not name.lower().endswith("tokens"):
        return False
    return isinstance(value, (int, float)) or isinstance(value, str) and value.strip().isdecimal()


def masked_text(text: str) -> str:
    """A text without the login in a URL, and without what it names a secret itself.

    >>> masked_text("postgres://me:p@ss@host/db?sslmode=on&password=abc&x=1")
    'postgres://***@host/db?sslmode=on&password=***&x=1'
    >>> masked_text("limit: 7, Authorization: Basic abcdefgh")
    'limit: 7, Authorization: ***'
    """
    text = _BEARER.sub(rf"\1{MASK}", _USERINFO.sub(rf"\1{MASK}@", text))
    parts, done = [], 0
    for found in _NAMED.finditer(text):
        name, sign = found.groups()
        if found.start() < done or not (is_secret(name) or name.lower() in _SIGNATURES):
            continue
        value = _VALUES[sign].match(text, found.end())
        if value and value[0] and not _is_count(name, value[0]):
            parts += [text[done : found.end()], MASK]
            done = value.end()
    return "".join([*parts, text[done:]])


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line's words without secrets: after `=`, whole, and in the word after an option of its own.

    >>> masked_words(["run", "--set", "task.options.password=my pass, word", "--api-key", "sk-1", "--debug"])
    ['run', '--set', 'task.options.password=***', '--api-key', '***', '--debug']
    >>> masked_words(["--set", "task.options={api_key: sk-1, limit: 7}"])
    ['--set', "task.options={api_key: '***', limit: 7}"]
    """
    found: list[str] = []
    asked = ""
    for word in words:
        is_option = word.startswith("-")
        found.append(str(_hidden(asked, word)) if asked and not is_option else _masked_word(word))
        asked = word if is_option and "=" not in word and is_secret(word) else ""
    return found


def _masked_word(word: str) -> str:
    name, equals, value = word.partition("=")
    if not equals or "://" in name:
        return masked_text(word)
    if is_secret(name):
        return f"{name}={_hidden(name, value)}"
    if name.startswith("-"):  # --set=key=value
        return f"{name}={_masked_word(value)}"
    return f"{name}={_masked_value(value)}"


def _masked_value(value: str) -> str:
    """A value as after `--set KEY=`, which may be a mapping in YAML."""
    try:
        tree = yaml.safe_load(value)
    except yaml.YAMLError:
        tree = value
    if not isinstance(tree, (dict, list)):
        return masked_text(value)
    masked = masked_tree(tree)
    if masked == tree:
        return value
    text = yaml.safe_dump(masked, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.strip()

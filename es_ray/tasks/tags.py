"""Text between tags, found in time that is linear in the text."""


def last_between(text: str, opening: str, closing: str) -> str | None:
    """What stands in the last pair of tags, read from left to right; None if there is no pair."""
    found, at = None, 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        found, at = text[start + len(opening) : end], end + len(closing)
    return found

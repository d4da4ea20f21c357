"""Arithmetic over whole numbers with + - * / and brackets: parsed and computed here, never run as code."""

import re
from collections.abc import Callable
from fractions import Fraction

LONGEST = 1000
"""Characters of an expression that is read at all."""

_TOKEN = re.compile(r"[ ]*(?:([0-9]+)|([-+*/()]))")
_BINARY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__,
}  # fmt: skip
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "negative": 3, "positive": 3}
_SIGN = {"-": "negative", "+": "positive"}


class Expression:
    """A well-formed expression; Python's rules of precedence, ASCII digits.

    Raises ValueError for what is none: other characters, two numbers without an operator between them, **,
    //, brackets that do not match, more than 1,000 characters.
    """

    def __init__(self, text: str) -> None:
        self._postfix = _postfix(_tokens(text))
        self.numbers = [token for token in self._postfix if isinstance(token, int)]
        """The numbers in it, in their order."""

    def value(self) -> Fraction:
        """What it comes to, exactly; raises ZeroDivisionError."""
        stack: list[Fraction] = []
        for token in self._postfix:
            if isinstance(token, int):
                stack.append(Fraction(token))
            elif token == "negative":
                stack.append(-stack.pop())
            elif token != "positive":
                right = stack.pop()
                stack.append(_BINARY[token](stack.pop(), right))
        return stack.pop()


def _tokens(text: str) -> list[int | str]:
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters is too long")
    text, tokens, at = text.strip(" "), list[int | str](), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at]!r} is not allowed in an expression")
        digits, operator = match.groups()
        tokens.append(int(digits) if digits else operator)
        at = match.end()
    return tokens


def _postfix(tokens: list[int | str]) -> list[int | str]:
    """The shunting yard: operands before their operator, no brackets, and no recursion to exhaust."""
    output, operators, operand_before = list[int | str](), list[str](), False
    for token in tokens:
        if isinstance(token, int) or token == "(":
            if operand_before:
                raise ValueError(f"an operator is missing before {token}")
            if isinstance(token, int):
                output.append(token)
                operand_before = True
            else:
                operators.append(token)
        elif not operand_before:  # a sign, or an operator without its left side
            if token not in _SIGN:
                raise ValueError(f"a number is missing before {token}")
            operators.append(_SIGN[token])
        elif token == ")":
            while operators and operators[-1] != "(":
                output.append(operators.pop())
            if not operators:
                raise ValueError("a bracket closes that was never opened")
            operators.pop()
        else:
            while operators and _RANK.get(operators[-1], 0) >= _RANK[token]:
                output.append(operators.pop())
            operators.append(token)
            operand_before = False
    if not operand_before or "(" in operators:
        raise ValueError("the expression breaks off")
    return output + operators[::-1]

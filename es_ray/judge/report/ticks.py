"""Round numbers for an axis, and how they are written."""

import math
from typing import Final

LARGE: Final = 1e6
"""From here on numbers are written with an exponent, unless that takes more digits than it saves."""
MOST_DIGITS: Final = 4
MOST_DECIMALS: Final = 6


def step_between(low: float, high: float, most: int, integer: bool = False) -> float:
    """How far apart the ticks are: 1, 2 or 5 times a power of ten; low < high."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return max(round(step), 1) if integer else step


def ticks(low: float, high: float, most: int, integer: bool = False) -> list[float]:
    """At most `most` + 1 multiples of `step_between` two numbers, low < high.

    >>> ticks(0.0, 1.0, 5), ticks(0, 3, 10, integer=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0, 1, 2, 3])
    """
    step = step_between(low, high, most, integer)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(-_power(step), 0)
    return [number * step if integer else round(number * step, digits) for number in range(first, last + 1)]


def label(value: float, step: float, percent: bool = False) -> str:
    """A tick's text, with as many digits as tell it from the next one, a step away.

    >>> label(-12500.0, 2500), label(0.25, 0.05), label(0.25, 0.05, percent=True), label(2e6, 1e6)
    ('−12,500', '0.25', '25%', '2e+06')
    >>> label(1234.1, 0.1), label(0.0, 0.1), label(1000010.0, 10)
    ('1,234.1', '0', '1,000,010')
    """
    if percent:
        return f"{label(100 * value, 100 * step)}%"
    if value == 0:
        return "0"
    decimals = max(-_power(step), 0)
    digits = _power(value) - _power(step) + 1
    if decimals > MOST_DECIMALS or (abs(value) >= LARGE and digits <= MOST_DIGITS):
        mantissa, _, exponent = f"{value:.{max(digits - 1, 0)}e}".partition("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa.replace('-', '−')}e{exponent}"
    return f"{value:,.{decimals}f}".replace("-", "−")


def _power(value: float) -> int:
    """The power of ten that a number begins with, also where a product is a little below it."""
    return math.floor(math.log10(abs(value)) + 1e-9)

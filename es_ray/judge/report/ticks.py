"""Round numbers for an axis."""

import math


def ticks(low: float, high: float, most: int, integer: bool = False) -> list[float]:
    """At most `most` + 1 multiples of 1, 2 or 5 times a power of ten between two numbers, low < high.

    >>> ticks(0.0, 1.0, 5), ticks(0, 3, 10, integer=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0, 1, 2, 3])
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    if integer:
        step = max(round(step), 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(-math.floor(math.log10(step)), 0)
    return [number * step if integer else round(number * step, digits) for number in range(first, last + 1)]


def label(value: float, percent: bool = False) -> str:
    """A tick's text.

    >>> label(-12500.0), label(0.25), label(0.25, percent=True), label(0.0), label(2e6)
    ('−12,500', '0.25', '25%', '0', '2e+06')
    """
    if percent:
        return f"{100 * value:.4g}%".replace("-", "−")
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("-", "−") if "e" not in text else text

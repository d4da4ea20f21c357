"""How figures look: what those of a run and of a calibration have in common."""

from typing import Final

BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"
GREY: Final = "#595959"
"""Okabe and Ito's, which colour-blind people tell apart; dashes and marks differ as well."""

FONTS: Final = {"font.size": 11, "legend.fontsize": 10, "legend.frameon": False}
DPI: Final = 110

"""How figures look: what those of a run, of its report and of a calibration have in common."""

from pathlib import Path
from typing import Final

from es_ray.config import BUNDLED, Config
from es_ray.imports import short_name

BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"
GREY: Final = "#595959"
"""Okabe and Ito's, which colour-blind people tell apart; dashes and marks differ as well."""

FONTS: Final = {"font.size": 11, "legend.fontsize": 10, "legend.frameon": False, "text.parse_math": False}
"""Texts are those of users, in which a $ is a $."""
DPI: Final = 110


def run_title(config: Config) -> str:
    """What a run is called on its figures."""
    model = "tiny-chat" if config.model.path == BUNDLED else Path(config.model.path).name
    run = f"population {config.evolution.population} · seed {config.evolution.seed}"
    return f"{short_name(config.task.name)} · {model} · {run}"

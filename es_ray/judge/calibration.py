"""What a calibration has found."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from es_ray.judge.ladder import Ladder
from es_ray.judge.trials import Trial

CALIBRATION: Final = "calibration"
"""The stem of what is written, and what the name of a folder begins with."""


@dataclass(frozen=True)
class Calibration:
    """A ladder, trials on it, and what to take.

    relative: the recommended evolution.noise.relative, None if nothing can be recommended; learning_rate: in
    units of sigma, None where no trial says one; reason: in a line; folder: where it was written.
    """

    model: str
    task: str
    form: str
    ladder: Ladder
    relative: float | None
    learning_rate: float | None
    reason: str
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0
    folder: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """For calibration.json, and for environment.json of a run."""
        found = asdict(replace(self, folder=None))
        del found["folder"]
        return found | found.pop("ladder") | {"settings": self.settings}

    @property
    def settings(self) -> dict[str, Any]:
        """What to set, by dotted key; empty if nothing can be recommended."""
        if self.relative is None:
            return {}
        found: dict[str, Any] = {"evolution.noise.relative": self.relative}
        if self.learning_rate is not None:
            found |= {"evolution.update_scale": "sigma", "evolution.learning_rate": self.learning_rate}
        return found

"""What a calibration has found, for a terminal."""

from collections.abc import Iterator

import yaml
from rich.table import Table
from rich.text import Text

from es_ray.config.tree import put
from es_ray.judge.calibration import CALIBRATION, Calibration
from es_ray.judge.rung_rules import Rung
from es_ray.judge.table import formatted


def calibration_tables(found: Calibration) -> Iterator[Table]:
    """The rungs, and the trials if there are any."""
    yield _rungs_table(found)
    if found.trials:
        yield _trials_table(found)


def _rungs_table(found: Calibration) -> Table:
    ladder = found.ladder
    title = (
        f"{found.model}, {found.task}: members that change each matrix by so much of it (form {found.form}), "
        f"{ladder.rungs[0].members} on each rung, {ladder.prompts} prompts"
    )
    table = Table(title=title, title_justify="left")
    names = [
        "noise",
        "reward",
        "signal/noise",
        "changed",
        *([ladder.metric] if ladder.metric else []),
        "broken",
    ]
    with_kl = any(rung.kl is not None for rung in ladder.rungs)
    for name in [*names, *(["KL"] if with_kl else [])]:
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for who, answers in (("base model", ladder.base), ("centre", ladder.centre)):
        metric = [] if ladder.metric is None else [formatted(ladder.metric, answers.metric or 0.0)]
        cells = [who, formatted("reward", answers.reward), "", "", *metric, f"{answers.broken:.0%}"]
        table.add_row(*cells, *([""] if with_kl else []), "")
    table.add_section()
    for rung in ladder.rungs:
        chosen = rung.relative == found.relative
        table.add_row(*map(Text, _cells(found, rung, with_kl)), style="bold" if chosen else None)
    return table


def _cells(found: Calibration, rung: Rung, with_kl: bool) -> list[str]:
    spread = f"{formatted('reward', rung.reward)} \u00b1 {formatted('reward', rung.reward_std)}"
    metric = [] if found.ladder.metric is None else [formatted(found.ladder.metric, rung.metric or 0.0)]
    said = rung.problem or ("works" if rung.relative != found.relative else "recommended")
    return [
        f"{rung.relative:g}",
        spread,
        "-" if rung.signal_to_noise is None else f"{rung.signal_to_noise:.2f}",
        "-" if rung.changed is None else f"{rung.changed:.0%}",
        *metric,
        f"{rung.broken:.0%}",
        *([] if not with_kl else ["-" if rung.kl is None else f"{rung.kl:.2g}"]),
        said,
    ]


def _trials_table(found: Calibration) -> Table:
    first = found.trials[0]
    where = "" if first.gains is None else f", on {len(first.gains)} other prompts"
    title = f"trials: the centre after {first.generations} generations{where}"
    table = Table(title=title, title_justify="left")
    names = [found.ladder.metric] if found.ladder.metric else []
    for name in ("noise", "learning rate (sigma)", "reward", *names):
        table.add_column(name, justify="right")
    table.add_column("")
    for trial in found.trials:
        chosen = (trial.relative, trial.learning_rate) == (found.relative, found.learning_rate)
        metric = [] if found.ladder.metric is None else [formatted(found.ladder.metric, trial.metric or 0.0)]
        change = f"{formatted('reward', trial.start)} \u2192 {formatted('reward', trial.reward)}"
        said = "recommended" if chosen else "" if trial.kept else f"loses {found.ladder.metric}"
        cells = [f"{trial.relative:g}", f"{trial.learning_rate:g}", change, *metric, said]
        table.add_row(*cells, style="bold" if chosen else None)
    return table


def calibration_lines(found: Calibration) -> Iterator[str]:
    """What to set, why, and where it was written."""
    if found.relative is None:
        yield f"nothing to recommend: {found.reason}"
    else:
        yield f"recommended: evolution.noise.relative {found.relative:g}: {found.reason}"
        yield "  " + " ".join(
            f"--set {key}={value:g}" if isinstance(value, float) else f"--set {key}={value}"
            for key, value in found.settings.items()
        )
        yield from (f"  {line}" for line in settings_yaml(found).splitlines())
    if found.folder is not None:
        yield f"wrote {found.folder / CALIBRATION}.json and .png in {found.seconds:.0f} s"


def settings_yaml(found: Calibration) -> str:
    """The settings as a file for `--config`; empty without any."""
    tree: dict[str, object] = {}
    for key, value in found.settings.items():
        put(tree, key.split("."), value)
    return yaml.safe_dump(tree, sort_keys=False) if tree else ""

"""What a check of a task has found, for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from es_ray.judge.check_task import TaskCheck
from es_ray.judge.table import formatted

MOST_LINES = 3
"""Lines about what is broken: mostly one thing, which every completion shows."""


def check_table(check: TaskCheck) -> Table:
    """A line for each completion: its example, what it is, and its score."""
    table = Table(title=f"{check.name}: {_counted(check)}", title_justify="left")
    names = list(dict.fromkeys(name for row in check.rows if row.score for name in row.score.metrics))
    for column in ("prompt", "target", "completion"):
        table.add_column(column, overflow="fold")
    for name in ("reward", *names):
        table.add_column(name, justify="right", overflow="fold")
    before = None
    for row in check.rows:
        if before not in (None, row.example):
            table.add_section()
        target = "" if row.example.target is None else str(row.example.target)
        shown = f"({row.kind})" if not row.completion else _shortened(row.completion, 40)
        values = {} if row.score is None else {"reward": row.score.reward, **row.score.metrics}
        cells = [formatted(name, values[name]) if name in values else "-" for name in ("reward", *names)]
        if row.error is not None:
            cells[0] = "broken"
        example = (_shortened(row.example.prompt, 30), _shortened(target, 20))
        table.add_row(*map(Text, (*(example if row.example != before else ("", "")), shown, *cells)))
        before = row.example
    return table


def check_lines(check: TaskCheck) -> Iterator[str]:
    """What is wrong, a line each, and what that means."""
    for text in check.broken[:MOST_LINES]:
        yield f"broken: {' '.join(text.split())}"
    if len(check.broken) > MOST_LINES:
        yield f"broken: {len(check.broken) - MOST_LINES} more, which --json lists"
    for text in check.warnings:
        yield f"warning: {' '.join(text.split())}"
    if check.broken:
        yield "a run with this task would end there"
    else:
        but = (
            f", with {len(check.warnings)} warning{'s' * (len(check.warnings) > 1)}" if check.warnings else ""
        )
        yield f"the task keeps its contract{but}: {_duration(check.seconds)} for a score"


def _counted(check: TaskCheck) -> str:
    examples = len({id(row.example) for row in check.rows})
    return f"{len(check.rows)} completions of {examples} example{'s' * (examples > 1)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _shortened(text: str, width: int) -> str:
    """A text on one line, without what a terminal would act on."""
    line = textwrap.shorten(text, width, placeholder=" ...") or text.strip()[:width]
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)

"""What members of the last generation answered: the best one, the one in the middle, the worst."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.judge.report.answers import Question, prompts_of, question, within_bytes
from es_ray.judge.report.spread import evenly, member_rewards
from es_ray.judge.report.text import number
from es_ray.runs.run_dir import RunDir

MOST_PROMPTS: Final = 4


@dataclass(frozen=True)
class MemberAnswers:
    """Of one generation. shown: how many members; members, prompts: how many it has in all."""

    generation: int
    questions: Sequence[Question]
    shown: int
    members: int
    prompts: int


def member_answers(run: RunDir, config: Config, complete: Sequence[int]) -> MemberAnswers | None:
    """Of the last generation whose completions were written, None without one; raises RunError.

    None also with task.batch_by: member, where no two pairs were asked the same.
    """
    every = config.output.populations_every
    written = [generation for generation in complete if generation % every == 0]
    if not written or config.task.batch_by == "member":
        return None
    folder = run.generation_folder(written[-1])
    rewards, lines = member_rewards(folder), folder.population_lines()
    order = np.argsort(-rewards, kind="stable")
    answers = {}
    for word, place in _places(order).items():
        member = json.loads(lines[place])  # of these three alone: the others may be many megabytes
        title = f"{word} member: {member['index']}, reward {number('reward', member['reward'])}"
        answers[title] = prompts_of(member.get("examples", []))
    count = min(map(len, answers.values()))
    if not count:
        return None
    chosen = evenly(range(count), MOST_PROMPTS)
    questions = [question({title: groups[at] for title, groups in answers.items()}) for at in chosen]
    return MemberAnswers(written[-1], within_bytes(questions), len(answers), len(lines), count)


def _places(order: NDArray[np.intp]) -> dict[str, int]:
    """Which members are shown, each once: of two there is none in the middle."""
    best, median, worst = (int(order[at]) for at in (0, len(order) // 2, -1))
    found = {"best": best, "median": median, "worst": worst}
    if median in (best, worst):
        del found["median"]
    if worst == best:
        del found["worst"]
    return found

r"""Your own task: say it in five words.

    es-ray run --task examples/word_limit.py:WordLimit --train train.jsonl --test test.jsonl

train.jsonl and test.jsonl hold a line for each question, such as

    {"prompt": "What is the capital of France?", "target": "Paris", "limit": 3}

The completion "It is Paris, of course" has five words and earns 1 - (5 - 3) / 5 = 0.6; "Paris" earns 1.
"""

import es_ray

LIMIT = 5


class WordLimit(es_ray.Task):
    """Reward: 1 within the limit, less the share of words beyond it; a row may set its own limit."""

    def score(self, example: es_ray.Example, completion: str) -> es_ray.Score:
        """Count words; `correct` shows whether the answer is still there."""
        words = completion.split()
        beyond = max(len(words) - int(example.metadata.get("limit", LIMIT)), 0)
        return es_ray.Score(
            reward=1.0 - beyond / max(len(words), 1),
            metrics={"correct": example.target.casefold() in completion.casefold(), "words": len(words)},
        )

"""What comes back of workers: means, records, and metrics of any task."""

import json
from dataclasses import replace

import numpy as np
import pytest

from es_ray.errors import EvaluationError, RunError
from es_ray.evaluation import BASE, CENTRE, Outcomes, Sample, ShardOutcome


def sample(reward: float, **metrics: float) -> Sample:
    return Sample("Why?", "So.", "Because", reward, metrics, tokens=3, finish_reason="stop")


def shard(index: int, *rewards: float, **metrics: float) -> ShardOutcome:
    answered = {(index, "train"): [sample(reward, **metrics) for reward in rewards]}
    return ShardOutcome.of("host/1", 4, answered)


def test_means_of_rewards_and_metrics_by_member_in_their_order():
    outcomes = Outcomes(
        [shard(1, 3.0, 5.0, brevity=0.25, correct=True), shard(0, 1.0, brevity=0.75, correct=False)]
    )
    assert outcomes.members["reward"].tolist() == [1.0, 4.0]
    assert {k: v.tolist() for k, v in outcomes.member_metrics().items()} == {
        "brevity": [0.75, 0.25],
        "correct": [0.0, 1.0],
    }
    assert outcomes.summary(1, "train") == {"reward": 4.0, "brevity": 0.25, "correct": 1.0}


def test_rewards_of_prompts_by_member_in_their_order_with_samples_averaged():
    def sampled(index: int, split: str, *rewards: float) -> dict:
        made = [
            Sample("Why?", None, "", reward, {}, tokens=3, finish_reason="stop", sample=place % 2)
            for place, reward in enumerate(rewards)
        ]
        return {(index, split): made}

    first = sampled(CENTRE, "train", 9.0, 9.0, 9.0, 9.0) | sampled(CENTRE, "test", 8.0, 8.0)
    second = sampled(2, "train", 1.0, 2.0, 3.0, 5.0) | sampled(0, "train", 4.0, 4.0, -1.0, 0.0)
    third = sampled(BASE, "test", 7.0, 7.0) | sampled(1, "train", 0.0, 6.0, 0.0, 0.0)
    outcomes = Outcomes([ShardOutcome.of("host/1", 4, part) for part in (first, second, third)])
    assert outcomes.prompt_rewards().tolist() == [[4.0, -0.5], [3.0, 0.0], [1.5, 4.0]]
    assert outcomes.prompt_rewards().mean(axis=1).tolist() == outcomes.members["reward"].tolist()


def test_without_samples_each_answer_is_a_prompts():
    outcomes = Outcomes([shard(1, 3.0, 5.0, 1.0), shard(CENTRE, 0.0), shard(0, 1.0, 2.0, 4.0)])
    assert outcomes.prompt_rewards().tolist() == [[1.0, 2.0, 4.0], [3.0, 5.0, 1.0]]


def answering(index: int, *completions: str) -> ShardOutcome:
    made = [Sample("Why?", "So.", text, 0.0, {}, tokens=3, finish_reason="stop") for text in completions]
    return ShardOutcome.of("host/1", 4, {(index, "train"): made})


@pytest.mark.parametrize(
    ("members", "changed", "distinct"),
    [
        ([("a", "b"), ("a", "b"), ("a", "b")], 0.0, 1),
        ([("a", "b"), ("b", "a"), ("a", "b")], 1 / 3, 2),
        ([("ab", ""), ("ab", ""), ("ab", "")], 1.0, 1),
        ([("a", "b"), ("a", "B"), ("", "ab")], 2 / 3, 3),
    ],
)
def test_members_are_told_apart_from_the_centre_and_from_each_other_by_their_texts(
    members, changed, distinct
):
    shards = [answering(index, *texts) for index, texts in enumerate(members)]
    outcomes = Outcomes([answering(BASE, "x", "y"), *shards, answering(CENTRE, "a", "b")])
    assert outcomes.answer_spread() == {"changed_members": changed, "distinct_members": distinct}


def test_a_task_without_metrics_has_none():
    outcomes = Outcomes([shard(0, 1.0), shard(CENTRE, 2.0), shard(BASE, 3.0)])
    assert outcomes.metric_names == ()
    assert outcomes.summary(CENTRE, "train") == {"reward": 2.0}
    (line,) = outcomes.lines(np.array([0.5]))
    assert json.loads(line)["examples"] == [
        {
            "prompt": "Why?",
            "target": "So.",
            "completion": "Because",
            "reward": 1.0,
            "tokens": 3,
            "finish": "stop",
        }
    ]


def test_metrics_stand_beside_the_reward_under_their_names():
    record = sample(1.0, brevity=0.5).record()
    assert list(record) == ["prompt", "target", "completion", "reward", "brevity", "tokens", "finish"]


def test_shards_may_name_their_metrics_in_another_order():
    outcomes = Outcomes([shard(0, 1.0, a=1.0, b=2.0), shard(1, 1.0, b=4.0, a=3.0)])
    assert outcomes.member_metrics()["a"].tolist() == [1.0, 3.0]


def test_completions_with_other_metrics_are_an_error_with_the_members_name():
    answered = {(7, "train"): [sample(1.0, a=1.0), sample(1.0, b=1.0)]}
    with pytest.raises(EvaluationError, match="member 7 of generation 4.*b.*a"):
        ShardOutcome.of("host/1", 4, answered)
    with pytest.raises(RunError, match="different metrics"):
        Outcomes([shard(0, 1.0, a=1.0), shard(1, 1.0)])


def test_candidates_of_other_generations_are_told_apart_and_are_no_members():
    samples = [[Sample("p", "t", "c", reward, {}, 5, "stop")] for reward in (1.0, 2.0, 3.0)]
    keys = [(0, "train"), (0, "train", 3), (0, "train", 4)]
    outcomes = Outcomes([ShardOutcome.of("host/1", 9, dict(zip(keys, samples, strict=True)))])
    assert [outcomes.summary(0, "train", g)["reward"] for g in (None, 3, 4)] == [1, 2, 3]
    assert [outcomes.examples(0, "train", g)[0]["reward"] for g in (None, 3, 4)] == [1, 2, 3]
    assert outcomes.members["reward"].tolist() == [1]


def of_worker(name: str, index: int, weights: int | None) -> ShardOutcome:
    return replace(shard(index, 1.0), worker=name, weights=weights)


def test_it_knows_the_workers_their_weights_and_how_many_members_they_answered_for():
    outcomes = Outcomes(
        [of_worker("a", 0, 7), of_worker("b", 1, 8), of_worker("a", 2, 7), of_worker("c", 3, None)]
    )
    assert outcomes.weights == {"a": {7}, "b": {8}, "c": {None}}
    assert outcomes.answered_by(["b"]) == 1 and outcomes.answered_by(["a", "c"]) == 3

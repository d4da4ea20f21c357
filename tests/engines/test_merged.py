"""Form merged in the transformers engine, against an implementation of its own in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.evolution.strategy import THETA
from es_ray.lora.changes_file import write_changes
from es_ray.lora.checkpoints import CHANGES, Checkpoints, description
from tests import plain_peft
from tests.engines.hf_setting import NEW_TOKENS, prompt_of, setting
from tests.merged_reference import Reference
from tests.small_models import STOP_IDS, VOCABULARY, small_model

POPULATION, STEPS = 6, 10
CASES = [
    ("qwen2", {"rank": 1}, {}),
    ("llama", {"rank": 3, "layers": "1"}, {"evolution__antithetic": False}),
    (
        "gpt_neox",
        {"rank": 2, "target_modules": ["query_key_value", "dense"]},
        {"evolution__weight_decay": 0.05},
    ),
    (
        "qwen3",
        {"rank": 2},
        {
            "evolution__noise": {
                "kind": "relative",
                "relative": 0.1,
                "schedule": {"kind": "linear", "to": 0.5, "over": 6},
            }
        },
    ),
]


def merged(folder: Path, lora: dict, values: dict):
    usual = {
        "evolution__population": POPULATION,
        "evolution__noise": {"kind": "relative", "relative": 0.1},
        "evolution__learning_rate": 2.0,
    }
    return setting(folder, {"form": "merged"} | lora, **usual | values)


def advantages_of(generation: int) -> np.ndarray:
    drawn = np.random.default_rng(generation).normal(size=POPULATION)
    return np.zeros(POPULATION) if generation == 4 else (drawn - drawn.mean()) / drawn.std()


def evolved(s, steps: int = STEPS):
    """States after so many generations of recorded advantages, the first before any."""
    strategy = s.experiment.strategy(s.engine.info.mean_abs, s.engine.info.frobenius)
    states = [strategy.initial()]
    for generation in range(steps):
        states.append(strategy.updated(states[-1], generation, advantages_of(generation), lambda: None))
    return strategy, states


def reference(s, steps: int = STEPS) -> Reference:
    found = Reference(s.experiment.config)
    for generation in range(steps):
        found.update(generation, advantages_of(generation))
    return found


def prompts() -> list[tuple[int, ...]]:
    rng = np.random.default_rng(2)
    return [prompt_of(rng, length) for length in (1, 4, 9, 17)]


@pytest.mark.parametrize(("architecture", "lora", "values"), CASES, ids=[case[0] for case in CASES])
def test_weights_after_ten_updates_are_the_references(architecture, lora, values, tmp_path):
    s = merged(small_model(tmp_path / "model", architecture), lora, values)
    _, states = evolved(s)
    s.engine.generate([states[-1][THETA]], s.perturbation, [Row(Variant(CENTRE), (100,))])
    wanted, moved = reference(s).weights(), 0
    for name, weight in s.engine._model.state_dict().items():
        plain = name.replace(".base.", ".")
        if plain in wanted:
            assert np.abs(weight.double().numpy() - wanted[plain]).max() <= 1e-5 * np.abs(wanted[plain]).max()
            moved += 1
    assert moved == len(wanted) == len(s.experiment.layout.modules)
    s.engine.close()


@pytest.mark.parametrize(("architecture", "lora", "values"), CASES, ids=[case[0] for case in CASES])
def test_members_of_several_centres_answer_as_plain_models(architecture, lora, values, tmp_path):
    """Members, centres and the base model of four generations in one call, in mixed order."""
    s = merged(small_model(tmp_path / "model", architecture), lora, values)
    _, states = evolved(s)
    generations = [0, 3, 7, 5]
    asked = [
        Row(Variant(member, generation, centre), prompt)
        for centre, generation in enumerate(generations)
        for member in (0, 1, 4, CENTRE, BASE)
        for prompt in prompts()
    ]
    asked = [asked[number] for number in np.random.default_rng(0).permutation(len(asked))]
    centres = [states[generation][THETA] for generation in generations]
    ended: list[int] = []
    answers = s.engine.generate(
        centres, s.perturbation, asked, on_completion=lambda row, completion: ended.append(row)
    )
    assert sorted(ended) == list(range(len(asked)))
    for variant in {row.variant for row in asked}:
        model = reference(s, variant.generation).model(variant)
        for row, ours in zip(asked, answers, strict=True):
            if row.variant == variant:
                wanted = plain_peft.greedy(model, list(row.prompt_ids), STOP_IDS, NEW_TOKENS)
                assert ours.token_ids == wanted, str(variant)
    first = [a.token_ids for row, a in zip(asked, answers, strict=True) if row.prompt_ids == prompts()[2]]
    assert len(set(map(tuple, first))) > 8
    s.engine.close()


def test_pairs_move_the_weights_in_opposite_directions_and_factors_scale_them(tmp_path):
    s = merged(small_model(tmp_path / "model"), {"rank": 2}, {})
    found = Reference(s.experiment.config)
    base = found.weights()
    for name in list(base)[:3]:
        one, other, half = (
            found.member(Variant(index, 3, sigma_factor=factor))[name] - base[name]
            for index, factor in ((2, 1.0), (3, 1.0), (2, 0.5))
        )
        assert np.allclose(one, -other, atol=1e-12) and np.allclose(half, one / 2, atol=1e-12)
    asked = [Row(Variant(2, 3, sigma_factor=f), prompt) for f in (0.25, 4.0) for prompt in prompts()]
    for row, ours in zip(
        asked, s.engine.generate([np.zeros((0, POPULATION + 1))], s.perturbation, asked), strict=True
    ):
        model = found.model(row.variant)
        assert ours.token_ids == plain_peft.greedy(model, list(row.prompt_ids), STOP_IDS, NEW_TOKENS)


def test_a_member_changes_a_matrix_by_the_relative_noise(tmp_path):
    for rank in (1, 8):
        s = merged(small_model(tmp_path / f"model{rank}"), {"rank": rank}, {"evolution__antithetic": False})
        found = Reference(s.experiment.config)
        base = found.weights()
        sizes = {name: [] for name in base}
        for index in range(POPULATION):
            for generation in range(12):
                for name, weight in found.member(Variant(index, generation)).items():
                    sizes[name].append(np.linalg.norm(weight - base[name]) / np.linalg.norm(base[name]))
        means = [np.sqrt(np.mean(np.square(each))) for each in sizes.values()]
        assert np.allclose(means, 0.1, rtol=0.12)


def test_log_probs_are_the_plain_models(tmp_path):
    s = merged(small_model(tmp_path / "model", "llama"), {"rank": 2}, {})
    _, states = evolved(s, 3)
    given = [[int(t) for t in np.random.default_rng(1).integers(0, VOCABULARY, 9)]] * 3
    asked = [Row(variant, prompts()[2]) for variant in (Variant(3, 3), Variant(CENTRE, 3), Variant(BASE))]
    found = s.engine.log_probs([states[3][THETA]], s.perturbation, asked, given)
    for row, tokens, ours in zip(asked, given, found, strict=True):
        model = reference(s, 3).model(row.variant)
        logits = plain_peft.logits(model, [*row.prompt_ids, *tokens]).double()[len(row.prompt_ids) - 1 : -1]
        wanted = logits.log_softmax(dim=-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert np.allclose(ours, wanted.numpy(), atol=2e-4, rtol=0)


def test_the_way_to_a_centre_does_not_matter(tmp_path):
    """Straight, step by step, from elsewhere, and back: the same bits."""
    s = merged(small_model(tmp_path / "model"), {"rank": 1}, {})
    _, states = evolved(s)
    asked = [Row(Variant(member, 8), prompt, Sampling(3)) for member in (1, CENTRE) for prompt in prompts()]

    def answers(generation: int):
        found = s.engine.generate([states[generation][THETA]], s.perturbation, asked, log_probs=True)
        return [answer.log_probs.tobytes() for answer in found], s.engine.checksum()

    straight = answers(8)
    for generation in (2, 10, 0, 5, 6, 7):
        assert answers(generation) != straight
    assert answers(8) == straight
    other = merged(tmp_path / "model", {"rank": 1}, {})
    for generation in range(9):
        found = other.engine.generate([states[generation][THETA]], s.perturbation, asked, log_probs=True)
    assert [answer.log_probs.tobytes() for answer in found] == straight[0]
    assert other.engine.checksum() == straight[1]


def test_measuring_the_drift_of_another_centre_changes_no_answer(tmp_path):
    s = merged(small_model(tmp_path / "model"), {"rank": 1}, {})
    _, states = evolved(s)
    asked = [Row(Variant(CENTRE), prompt) for prompt in prompts()]

    def answers():
        found = s.engine.generate([states[8][THETA]], s.perturbation, asked, log_probs=True)
        return [answer.log_probs.tobytes() for answer in found], s.engine.checksum()

    wanted = answers()
    for other in (2, 10):
        s.engine.generate([states[other][THETA]], s.perturbation, asked)
        s.engine.drift(states[8][THETA], s.perturbation)  # as a worker without a shard may be asked
        assert answers() == wanted


def test_updates_far_below_a_unit_in_the_last_place_of_bfloat16_add_up(tmp_path):
    """Two hundred updates, each a hundredth of such a unit or less, in bfloat16 against float64."""
    folder = small_model(tmp_path / "model", dtype=torch.bfloat16)
    values = {
        "evolution__learning_rate": 0.001,
        "model__dtype": "bfloat16",
        "evolution__noise": {"kind": "relative", "relative": 0.03},
    }
    s = merged(folder, {"rank": 1}, values)
    strategy, found = (
        s.experiment.strategy(s.engine.info.mean_abs, s.engine.info.frobenius),
        Reference(s.experiment.config),
    )
    state, base = strategy.initial(), found.weights()
    for generation in range(200):
        advantages = advantages_of(generation)
        state = strategy.updated(state, generation, advantages, lambda: None)
        found.update(generation, advantages)
    s.engine.generate([state[THETA]], s.perturbation, [Row(Variant(CENTRE), (100,))])
    for name, weight in s.engine._model.state_dict().items():
        plain = name.replace(".base.", ".")
        if plain in base:
            exact = found.weights()[plain]
            rounded = torch.from_numpy(exact).to(torch.bfloat16)
            assert (weight == rounded).double().mean() > 0.99
            naive = np.abs(exact - base[plain])
            assert naive.max() > 0
    assert s.engine.drift(state[THETA], s.perturbation) == pytest.approx(found.drift(), rel=1e-4)


def test_drift_is_the_references(tmp_path):
    s = merged(small_model(tmp_path / "model", "llama"), {"rank": 2}, {})
    _, states = evolved(s)
    assert s.engine.drift(states[0][THETA], s.perturbation) == 0
    for steps in (3, 10):
        wanted = reference(s, steps).drift()
        assert s.engine.drift(states[steps][THETA], s.perturbation) == pytest.approx(wanted, rel=1e-5)


def checkpoints_of(s, states, generations, folder: Path) -> None:
    """Written by an engine, into the folders of these generations."""
    layout = s.experiment.layout
    for generation in generations:
        path, history = folder / f"{generation:04d}" / CHANGES, states[generation][THETA]
        path.parent.mkdir(parents=True)
        matrices = (s.engine.change(history, s.perturbation, n) for n in range(len(layout.modules)))
        write_changes(path, layout, matrices, description(history, s.perturbation, layout))


def test_a_replay_from_a_checkpoint_has_the_bits_of_a_full_one(tmp_path, caplog, monkeypatch):
    """Straight to generation 9 and back to 6, from checkpoints of 7, 5 and 3, whole and damaged ones."""
    s = merged(small_model(tmp_path / "model"), {"rank": 2}, {"evolution__weight_decay": 0.05})
    _, states = evolved(s)
    asked = [Row(Variant(member, 9), prompt) for member in (1, CENTRE) for prompt in prompts()]

    def answers(engine, generation: int):
        found = engine.generate([states[generation][THETA]], s.perturbation, asked, log_probs=True)
        changes = [
            engine.change(states[generation][THETA], s.perturbation, number).tobytes()
            for number in range(len(s.experiment.layout.modules))
        ]
        return [answer.log_probs.tobytes() for answer in found], changes, engine.checksum()

    wanted = {generation: answers(s.engine, generation) for generation in (9, 6)}
    folder = tmp_path / "generations"
    checkpoints_of(s, states, (3, 5, 7), folder)
    checkpoints = Checkpoints(folder, s.experiment.layout)
    added: list[int] = []
    add = type(s.engine._merged._weights).add

    def counted(weights, missing, *arguments):
        added.extend(update.generation for update in missing)
        add(weights, missing, *arguments)

    monkeypatch.setattr(type(s.engine._merged._weights), "add", counted)

    def replayed() -> list[list[int]]:
        """The updates that each of the two replays added."""
        s.engine._merged._history = None
        s.engine._merged._checkpoints = checkpoints
        found = []
        for generation in (9, 6):
            added.clear()
            assert answers(s.engine, generation) == wanted[generation]
            found.append(list(added))
        return found

    assert replayed() == [[7, 8], [5]]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    torn, edited = folder / f"0007/{CHANGES}", folder / f"0005/{CHANGES}"
    torn.write_bytes(torn.read_bytes()[:-1000])
    content = bytearray(edited.read_bytes())
    content[-1000] ^= 1  # in the last matrix: the others are in place by then
    edited.write_bytes(content)
    assert replayed() == [[3, 5, 6, 7, 8], [3, 5]]  # generation 4 moved nothing
    said = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert len(said) == 2 and all(any(str(path) in each for each in said) for path in (torn, edited))
    (folder / f"0003/{CHANGES}").unlink()
    assert replayed() == [[0, 1, 2, 3, 5, 6, 7, 8], [0, 1, 2, 3, 5]]
    s.engine.close()


def test_a_worker_far_behind_goes_on_from_a_checkpoint(tmp_path):
    s = merged(small_model(tmp_path / "model"), {"rank": 1}, {})
    _, states = evolved(s)
    checkpoints_of(s, states, (3, 8), tmp_path / "generations")
    wanted = s.engine.change(states[10][THETA], s.perturbation, 0)
    s.engine._merged._checkpoints = Checkpoints(tmp_path / "generations", s.experiment.layout)
    s.engine.drift(states[2][THETA], s.perturbation)
    loaded = []
    load = s.engine._merged._weights.load
    s.engine._merged._weights.load = lambda each: loaded.append(each.updates) or load(each)
    s.engine.drift(states[5][THETA], s.perturbation)
    s.engine.drift(states[6][THETA], s.perturbation)  # one update more: no file is looked for
    assert s.engine.change(states[10][THETA], s.perturbation, 0).tobytes() == wanted.tobytes()
    assert loaded == [3, 8]
    s.engine.close()

import textwrap
from pathlib import Path

import pytest
import yaml

from es_ray.config import (
    Config,
    NoiseConfig,
    changed_bytes,
    differences,
    layer_numbers,
    load,
    noise_origin,
    preset_names,
)
from es_ray.config.format import FORMAT
from es_ray.config.loading import PRESETS_DIR
from es_ray.errors import UserError

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def get(config: Config, key: str):
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def write(path, text: str):
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_flag_beats_a_set_which_beats_the_file_which_beats_the_preset(tmp_path):
    file = write(
        tmp_path / "c.yaml",
        """
        evolution: {population: 10, generations: 11, learning_rate: 0.5, noise: {multiplier: 3}}
        """,
    )
    config = load(
        file,
        "seed-conciseness",
        ["evolution.generations=12", "evolution.learning_rate=0.25", "evolution.noise.fraction=0.2"],
        {"evolution.learning_rate": 0.125, "evolution.seed": None},
    )
    evolution = config.evolution
    assert evolution.learning_rate == 0.125  # flag
    assert evolution.generations == 12  # set
    assert evolution.noise.fraction == 0.2
    assert evolution.population == 10  # file
    assert evolution.noise.multiplier == 3
    assert config.init.scale == 20  # preset
    assert evolution.seed == 0  # default
    assert config.lora.layers == "0-9"


def test_a_later_set_beats_an_earlier_one():
    assert load(sets=["evolution.seed=1", "evolution.seed=2"]).evolution.seed == 2


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("evolution.learning_rate=1e-3", "evolution.learning_rate", 0.001),
        ("evolution.antithetic=true", "evolution.antithetic", True),
        ("lora.target_modules=[q_proj, v_proj]", "lora.target_modules", ["q_proj", "v_proj"]),
        ("lora.layers=3", "lora.layers", "3"),
        ("lora.layers=0-2", "lora.layers", "0-2"),
        ("lora.layers=0,2,5", "lora.layers", "0,2,5"),
        ("task.train=null", "task.train", None),
        ("output.dir=a=b", "output.dir", "a=b"),
        ("cluster.workers=auto", "cluster.workers", "auto"),
        ("evolution.seed=18446744073709551615", "evolution.seed", 2**64 - 1),
        ("engine.sglang.mem_fraction_static=0.7", "engine.sglang", {"mem_fraction_static": 0.7}),
    ],
)
def test_sets_are_read_as_yaml(item, key, value):
    assert get(load(sets=[item]), key) == value


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("evolution.population=1", ["evolution.population", "1", "2"]),
        ("evolution.seed=true", ["evolution.seed", "True", "a number, not a boolean"]),
        ("evolution.population=-3", ["evolution.population", "-3", "2"]),
        ("evolution.population=2.5", ["evolution.population", "2.5", "integer"]),
        ("evolution.population=many", ["evolution.population", "many", "integer"]),
        ("evolution.generations=0", ["evolution.generations", "0", "1"]),
        ("evolution.learning_rate=-0.1", ["evolution.learning_rate", "-0.1", "greater than 0"]),
        ("evolution.learning_rate=0", ["evolution.learning_rate", "0", "greater than 0"]),
        ("evolution.learning_rate=.nan", ["evolution.learning_rate", "nan", "finite"]),
        ("evolution.learning_rate=.inf", ["evolution.learning_rate", "inf", "finite"]),
        ("evolution.learning_rate=fast", ["evolution.learning_rate", "fast", "number"]),
        ("evolution.shaping=rank", ["evolution.shaping", "rank", "zscore", "centered-rank", "none"]),
        ("evolution.update_scale=x", ["evolution.update_scale", "x", "absolute", "sigma"]),
        ("evolution.momentum=1", ["evolution.momentum", "1", "less than 1"]),
        ("evolution.weight_decay=1", ["evolution.weight_decay", "1", "less than 1"]),
        ("evolution.weight_decay=-0.1", ["evolution.weight_decay", "-0.1", "greater than or equal to 0"]),
        ("evolution.prompt_normalization=mean", ["evolution.prompt_normalization", "mean", "none", "zscore"]),
        ("evolution.min_spread=-1", ["evolution.min_spread", "-1", "0"]),
        ("evolution.tie_correction=some", ["evolution.tie_correction", "some"]),
        *(
            (f"{key}={value}", [key, *words])
            for key in ("evolution.learning_rate_schedule", "evolution.noise.schedule")
            for value, words in [
                ("0.1", ["0.1", "constant, or {kind: linear or cosine"]),
                ("[linear]", ["constant, or {kind: linear or cosine"]),
                ("step", ["step", "constant", "linear", "cosine"]),
                ("linear", [".to", "linear", "over: GENERATIONS"]),
                ("{kind: cosine, to: 0.1}", [".over", "cosine", "over: GENERATIONS"]),
                ("{kind: constant, to: 0.1}", [".to", "0.1", "no effect on a constant schedule"]),
                ("{kind: linear, to: -1, over: 5}", [".to", "-1", "0"]),
                ("{kind: linear, to: .inf, over: 5}", [".to", "inf", "finite"]),
                ("{kind: linear, to: 0.1, over: 0}", [".over", "0", "1"]),
                ("{kind: linear, to: 0.1, over: true}", [".over", "a number, not a boolean"]),
                ("{kind: linear, too: 0.1, over: 5}", [".too", "unknown key", ".to"]),
            ]
        ),
        (
            "evolution.noise.schedule={kind: linear, to: 0, over: 5}",
            ["evolution.noise.schedule.to", "centre"],
        ),
        ("evolution.antithetic=perhaps", ["evolution.antithetic", "perhaps"]),
        ("evolution.seed=-1", ["evolution.seed", "-1", "0"]),
        ("evolution.seed=18446744073709551616", ["evolution.seed", "18446744073709551616"]),
        ("evolution.noise.kind=layer", ["evolution.noise.kind", "per-layer", "per-module", "constant"]),
        ("evolution.noise.multiplier=0", ["evolution.noise.multiplier", "0"]),
        ("evolution.noise.fraction=-1", ["evolution.noise.fraction", "-1"]),
        ("evolution.noise.std=0", ["evolution.noise.std", "0"]),
        ("lora.rank=0", ["lora.rank", "0", "1"]),
        ("lora.rank=-4", ["lora.rank", "-4", "1"]),
        ("lora.rank=100000", ["lora.rank", "100000", "256"]),
        ("lora.alpha=0", ["lora.alpha", "0"]),
        ("lora.layers=first", ["lora.layers", "first", "all", "0-9", "0,2,5"]),
        ("lora.layers=5-2", ["lora.layers", "5-2", "backwards"]),
        ("lora.layers=1-", ["lora.layers", "1-"]),
        ("lora.layers=-1", ["lora.layers", "-1"]),
        ("lora.layers=", ["lora.layers", "all"]),
        ("evolution.noise.relative=0", ["evolution.noise.relative", "0"]),
        ("lora.form=full", ["lora.form", "full", "both", "b", "merged"]),
        ("task.batch_by=member", ["task.batch_by", "member", "needs a batch"]),
        ("task.columns={target: prompt}", ["task.columns", "three different fields"]),
        ("task.options={my-option: 1}", ["task.options", "'my-option'", "no name of an argument"]),
        ("task.batch=few", ["task.batch", "few", "1", "auto", "null"]),
        ("lora.target_modules=[]", ["lora.target_modules"]),
        ("lora.target_modules=q_proj", ["lora.target_modules", "q_proj", "list"]),
        ("lora.target_modules=[q_proj, q_proj]", ["lora.target_modules", "once"]),
        ("init.std=0", ["init.std", "0"]),
        ("init.scale=-1", ["init.scale", "-1"]),
        ("init.b=ones", ["init.b", "ones", "normal", "zeros"]),
        ("init.mode=random", ["init.mode", "random", "centre", "population"]),
        ("task.max_new_tokens=0", ["task.max_new_tokens", "0", "1"]),
        ("model.dtype=float8", ["model.dtype", "float8", "float32", "bfloat16"]),
        ("evaluation.every=0", ["evaluation.every", "0", "1"]),
        ("engine.shard=0", ["engine.shard", "0", "1"]),
        ("engine.threads=0", ["engine.threads", "0", "1"]),
        ("cluster.workers=-1", ["cluster.workers", "-1", "0", "auto"]),
        ("cluster.workers=some", ["cluster.workers", "some", "auto"]),
        ("cluster.wait_timeout=0", ["cluster.wait_timeout", "0"]),
        ("cluster.max_attempts=0", ["cluster.max_attempts", "0"]),
        ("output.keep=0", ["output.keep", "0", "1"]),
        ("output.plots_every=0", ["output.plots_every", "0", "1"]),
        ("evolution=5", ["evolution", "5"]),
        ("evolution.noise=[1]", ["evolution.noise"]),
    ],
)
def test_an_impossible_value_is_named_with_its_key_and_what_is_allowed(item, words):
    with pytest.raises(UserError) as error:
        load(sets=[item])
    message = str(error.value)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_schedules_are_written_in_either_form_and_read_back(tmp_path):
    config = load(
        sets=[
            "evolution.learning_rate_schedule={kind: cosine, to: 0, over: 40}",
            "evolution.noise.schedule={kind: linear, to: 0.5, over: 10}",
        ]
    )
    assert config.evolution.learning_rate_schedule.model_dump() == {"kind": "cosine", "to": 0, "over": 40}
    assert config.evolution.noise.schedule.model_dump() == {"kind": "linear", "to": 0.5, "over": 10}
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert load(file=file) == config
    back = load(
        file=file, sets=["evolution.learning_rate_schedule=constant", "evolution.noise.schedule=constant"]
    )
    assert back == load()
    longer = load(file=file, sets=["evolution.noise.schedule.over=20"])
    assert longer.evolution.noise.schedule.model_dump() == {"kind": "linear", "to": 0.5, "over": 20}
    assert config.replace(evolution__noise__schedule="constant").evolution.noise == load().evolution.noise


def test_a_schedule_of_the_noise_stays_with_other_noise():
    """Neither is it a key of one kind, nor does it make a layer one of another kind."""
    scheduled = "evolution.noise.schedule={kind: linear, to: 0.5, over: 10}"
    config = load(sets=[scheduled])
    assert config.evolution.noise.multiplier == load().evolution.noise.multiplier
    for noise in (config.replace(evolution__noise__std=0.01).evolution.noise,
                  load(sets=[scheduled, "evolution.noise.std=0.01"]).evolution.noise):  # fmt: skip
        assert (noise.kind, noise.std, noise.multiplier) == ("constant", 0.01, None)
        assert noise.schedule.to == 0.5


def test_prompt_normalization_needs_the_same_prompts_for_all():
    own = ["task.batch=2", "task.batch_by=member", "evolution.antithetic=true"]
    for sets in (own, ["task.batch=2", "evolution.prompt_normalization=zscore"]):
        load(sets=sets)
    with pytest.raises(UserError, match=r"^evolution.prompt_normalization: zscore .*task.batch_by: member"):
        load(sets=[*own, "evolution.prompt_normalization=zscore"])


@pytest.mark.parametrize("item", ["evolution.tie_correction=true", "evolution.min_spread=0.1"])
def test_remedies_of_near_ties_need_a_shaping_that_ignores_the_rewards_scale(item):
    for shaping in ("zscore", "centered-rank"):
        load(sets=[item, f"evolution.shaping={shaping}"])
    with pytest.raises(UserError, match=rf"^{item.partition('=')[0]}: .* no effect on shaping none"):
        load(sets=[item, "evolution.shaping=none"])


def test_an_odd_antithetic_population_is_refused():
    with pytest.raises(UserError, match=r"evolution.*7 is odd.*even"):
        load(sets=["evolution.antithetic=true", "evolution.population=7"])
    assert load(sets=["evolution.antithetic=true", "evolution.population=8"]).evolution.antithetic


def test_a_population_of_base_models_is_refused():
    with pytest.raises(UserError, match=r"init.*zeros.*population"):
        load(sets=["init.b=zeros", "init.mode=population"])


@pytest.mark.parametrize(
    ("item", "near"),
    [
        ("evolution.learning_rte=1", "evolution.learning_rate"),
        ("evolution.popluation=1", "evolution.population"),
        ("evolution.noise.multiplyer=1", "evolution.noise.multiplier"),
        ("lora.target_module=[q_proj]", "lora.target_modules"),
        ("evoluton.seed=1", "evolution"),
    ],
)
def test_an_unknown_key_is_named_with_a_near_one(item, near):
    with pytest.raises(UserError) as error:
        load(sets=[item])
    message = str(error.value)
    assert "unknown key" in message
    assert item.partition("=")[0].split(".")[0] in message
    assert near in message


def test_an_unknown_key_without_a_near_one_is_named_with_those_there_are():
    with pytest.raises(UserError) as error:
        load(sets=["evaluation.zzzz=1"])
    assert "evaluation.zzzz" in str(error.value)
    assert "evaluation.every" in str(error.value)


@pytest.mark.parametrize("item", ["evolution.seed", "=5", "evolution.seed 5"])
def test_a_set_without_key_and_value_is_refused(item):
    with pytest.raises(UserError, match="section.key=value"):
        load(sets=[item])


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("evolution: {seed: 1", "YAML"),
        ("evolution:\n\t- seed", "YAML"),
        ("- evolution\n- lora\n", "evolution:"),
        ("just text", "evolution:"),
        ("evolution:\n  nois: {std: 1}\n", "evolution.nois"),
        ("1: 2\n", "1"),
        ("evolution:\n  1: 2\n", "1"),
    ],
)
def test_a_bad_file_is_an_error_of_one_line(tmp_path, text, about):
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError) as error:
        load(file)
    assert about in str(error.value)
    assert "\n" not in str(error.value)


SGLANG = "engine: {kind: %s, sglang: {mem_fraction_static: 0.5}}\n"


def test_a_key_without_effect_is_refused_in_the_layer_that_sets_it(tmp_path):
    file = write(tmp_path / "c.yaml", SGLANG % "transformers")
    with pytest.raises(UserError, match=r"^engine\.sglang\.mem_fraction_static: 0\.5 has no effect"):
        load(file)
    with pytest.raises(UserError, match=r"^engine\.sglang\.tp: 2 has no effect on engine\.kind transformers"):
        load(write(tmp_path / "d.yaml", "engine: {kind: transformers}\n"), sets=["engine.sglang.tp=2"])
    with pytest.raises(UserError, match=r"^model\.revision: 'v2' has no effect on the folder "):
        load(write(tmp_path / "e.yaml", f"model: {{path: {tmp_path}, revision: v2}}\n"))


def test_what_a_higher_layer_makes_superfluous_stays(tmp_path):
    for kind in ("sglang", "auto"):
        file = write(tmp_path / f"{kind}.yaml", SGLANG % kind)
        assert load(file, flags={"engine.kind": "transformers"}).engine.kind == "transformers"
        assert load(file).engine.sglang
    hub = write(tmp_path / "hub.yaml", "model: {path: owner/name, revision: v2}\n")
    assert load(hub, flags={"model.path": str(tmp_path)}).model.path == str(tmp_path)
    recorded = write(tmp_path / "run.yaml", load(file, flags={"engine.kind": "transformers"}).to_yaml())
    assert load(recorded).engine.kind == "transformers", "a run's own file can be run again"


def test_what_a_higher_layer_gives_its_effect_stays(tmp_path):
    revision = write(tmp_path / "revision.yaml", "model: {revision: v2}\n")
    assert load(revision, flags={"model.path": "owner/name"}).model.revision == "v2"
    assert load(revision, sets=["model.path=owner/name"]).model.revision == "v2"
    with pytest.raises(UserError, match=r"^model\.revision: 'v2' has no effect on the bundled model"):
        load(revision, sets=["evolution.population=4"])
    engine = write(tmp_path / "engine.yaml", SGLANG % "transformers")
    assert load(engine, flags={"engine.kind": "sglang"}).engine.sglang == {"mem_fraction_static": 0.5}


def test_only_the_empty_section_makes_a_file_that_of_a_run(tmp_path):
    text = "tracking: {project: mine}\n" + SGLANG % "transformers"
    with pytest.raises(UserError, match=r"^engine\.sglang\.mem_fraction_static: 0\.5 has no effect"):
        load(write(tmp_path / "mine.yaml", text))
    assert load(write(tmp_path / "old.yaml", text.replace("{project: mine}", "{}"))).engine.sglang


def test_a_missing_file_and_an_unknown_preset_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="seed-concise.*seed-conciseness.*tiny-chat"):
        load(preset="seed-concise")


def test_an_empty_file_leaves_the_defaults(tmp_path):
    assert load(write(tmp_path / "c.yaml", "# nothing\n")) == load()


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_survives_its_own_yaml(preset, tmp_path):
    config = load(preset=preset)
    assert load(write(tmp_path / "c.yaml", config.to_yaml())) == config


def test_presets_of_one_thread_keep_it_and_the_general_one_takes_the_machines_cores():
    threads = {name: load(preset=name).engine.threads for name in preset_names()}
    assert {name for name, count in threads.items() if count == "auto"} == {"general", "smollm2-135m"}
    assert set(threads.values()) == {"auto", 1}


def test_all_presets_are_listed():
    assert {"tiny-chat", "seed-conciseness", "qwen2.5-7b-conciseness", "paper-conciseness"} <= set(
        preset_names()
    )


def test_the_bundled_models_preset_is_the_default_of_a_run():
    assert load(preset="tiny-chat") == load() == load(flags={"model.path": "bundled"})


def test_the_default_of_0_1_0_is_a_preset():
    """As tests/data/run_0_1_0 records it, but for what that run was told."""
    recorded = load(Path(__file__).parent / "data/run_0_1_0/run/config.yaml")
    told = {"population": 30, "generations": 50, "seed": 0}
    told["noise"] = recorded.evolution.noise.model_dump() | {"multiplier": 22.0}
    former = load(preset="tiny-chat-0.1.0")
    assert former.evolution == recorded.replace(**{f"evolution__{k}": v for k, v in told.items()}).evolution
    assert (former.lora, former.init) == (recorded.lora, recorded.init)
    assert former.task == recorded.replace(task__max_new_tokens=64).task
    changed = load(preset="tiny-chat").replace(
        evolution__noise__multiplier=22.0, task__name="conciseness", engine__processes=1
    )
    assert changed == former, "their noise, their validation and their processes alone differ"


GENERAL = {
    "lora.form": "b",
    "lora.rank": 1,
    "lora.layers": "all",
    "lora.target_modules": SEVEN,
    "evolution.population": 30,
    "evolution.learning_rate": 1.0,
    "evolution.optimizer": "sgd",
    "evolution.shaping": "zscore",
    "evolution.update_scale": "sigma",
    "evolution.antithetic": True,
    "evolution.noise.kind": "relative",
    "evolution.noise.relative": 0.03,
    "evolution.noise.multiplier": None,
    "task.batch": "auto",
}


def test_another_model_and_python_get_the_general_defaults(tmp_path):
    file = write(tmp_path / "c.yaml", "model: {path: owner/name}\n")
    ways = [
        load(flags={"model.path": "owner/name"}),
        load(sets=["model.path=owner/name"]),
        load(file),
        Config().replace(model__path="owner/name"),
        load(preset="general", flags={"model.path": "owner/name"}),
    ]
    for config in ways:
        assert {key: get(config, key) for key in GENERAL} == GENERAL
        assert config == ways[0]
    assert load(preset="general") == Config()


def test_the_size_of_relative_noise_is_by_the_form_unless_it_is_set():
    both = load(flags={"model.path": "owner/name"}, sets=["lora.form=both"])
    assert both.evolution.noise.relative == 0.0125
    assert Config().replace(lora__form="both") == load(preset="general", sets=["lora.form=both"])
    chosen = Config().replace(evolution__noise__relative=0.05)
    assert chosen.replace(lora__form="both").evolution.noise.relative == 0.05
    assert load(sets=["evolution.noise.kind=relative", "model.path=a/b"]).evolution.noise.relative == 0.03
    assert load(preset="seed-conciseness", sets=["evolution.noise.relative=0.2"]).evolution.noise == (
        Config().replace(evolution__noise__relative=0.2).evolution.noise
    )


def test_the_bundled_models_multiplier_is_for_the_bundled_model_alone():
    for path, multiplier in (("bundled", 22.0), ("owner/name", 1.0)):
        config = load(sets=["evolution.noise.fraction=0.2", f"model.path={path}"])
        assert (config.evolution.noise.kind, config.evolution.noise.fraction) == ("per-layer", 0.2)
        assert config.evolution.noise.multiplier == multiplier


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_names_every_key_of_what_is_evolved(preset):
    """So that it keeps its meaning when a default changes."""
    tree = yaml.safe_load((PRESETS_DIR / f"{preset}.yaml").read_text(encoding="utf-8"))
    for section in ("lora", "init", "evolution"):
        assert set(tree[section]) == set(Config.model_fields[section].annotation.model_fields)
    assert set(tree["evolution"]["noise"]) == set(NoiseConfig.model_fields)
    assert "batch" in tree["task"]


def test_checkpoints_are_refused_for_forms_without_them(tmp_path):
    file = write(tmp_path / "c.yaml", "output: {checkpoint_every: 10}\nlora: {form: b}\n")
    words = r"^output\.checkpoint_every: 10 has no effect on lora\.form b; it is for merged$"
    with pytest.raises(UserError, match=words):
        load(file)
    with pytest.raises(UserError, match=words):
        load(sets=["lora.form=b", "output.checkpoint_every=10"])
    assert load(file, sets=["lora.form=merged", "evolution.update_scale=sigma"]).output.checkpoint_every == 10
    assert load(sets=["lora.form=b", "output.checkpoint_every=null"]).output.checkpoint_every is None


INIT = [("std", 0.5), ("scale", 2.0), ("b", "zeros"), ("mode", "population")]


@pytest.mark.parametrize(("key", "value"), INIT)
def test_initial_values_that_form_b_does_not_have_are_refused(key, value, tmp_path):
    words = rf"^init\.{key}: {value!r} has no effect on lora\.form b; it is for both$"
    file = write(tmp_path / "c.yaml", f"init: {{{key}: {value}}}\nlora: {{form: b}}\n")
    with pytest.raises(UserError, match=words):
        load(file)
    with pytest.raises(UserError, match=words):
        load(preset="general", sets=[f"init.{key}={value}"])
    assert getattr(load(file, sets=["lora.form=both"]).init, key) == value
    assert load(preset="seed-conciseness", sets=["lora.form=b"]).lora.form == "b", "the preset's own stay"


def test_a_file_of_a_run_keeps_what_its_missing_keys_meant(tmp_path):
    """The keys of this list were added, or given another default, after such files were written."""
    tree = yaml.safe_load(load(preset="tiny-chat-0.1.0", flags={"model.path": "owner/name"}).to_yaml())
    tree["evolution"]["noise"] = {"kind": "per-layer", "fraction": 0.1, "multiplier": 3.0, "std": None}
    del tree["lora"]["form"], tree["task"]["batch"], tree["engine"]["threads"]
    for key in ("learning_rate", "update_scale", "antithetic"):
        del tree["evolution"][key]
    recorded = write(tmp_path / "run.yaml", yaml.safe_dump(tree))
    for config in (load(recorded), load(recorded, preset="general")):
        assert (config.lora.form, config.task.batch, config.engine.threads) == ("both", None, 1)
        assert (config.evolution.learning_rate, config.evolution.update_scale) == (0.05, "absolute")
        assert not config.evolution.antithetic
        assert (config.evolution.noise.kind, config.evolution.noise.multiplier) == ("per-layer", 3.0)
    del tree["evolution"]["noise"]
    noise = load(write(tmp_path / "bare.yaml", yaml.safe_dump(tree))).evolution.noise
    assert (noise.kind, noise.fraction, noise.multiplier) == ("per-layer", 0.1, 22.0)


@pytest.mark.parametrize(
    ("preset", "sets", "origin"),
    [
        (None, ["model.path=owner/name"], "general default"),
        (None, ["model.path=owner/name", "lora.form=both"], "general default"),
        (None, [], "as in preset tiny-chat"),
        ("seed-conciseness", ["model.path=owner/name"], "as in preset seed-conciseness"),
        (None, ["model.path=owner/name", "evolution.noise.relative=0.02"], "set by you"),
        ("seed-conciseness", ["evolution.noise.multiplier=7"], "set by you"),
    ],
)
def test_the_noises_origin_is_told_from_the_configuration(preset, sets, origin):
    assert noise_origin(load(preset=preset, sets=sets)) == origin


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        (
            "seed-conciseness",
            {
                "model.path": "Qwen/Qwen2.5-7B-Instruct",
                "lora.rank": 1,
                "lora.alpha": 2,
                "lora.layers": "0-9",
                "lora.target_modules": SEVEN,
                "init.mode": "population",
                "init.b": "normal",
                "init.std": 0.02,
                "init.scale": 20,
                "evolution.population": 30,
                "evolution.generations": 5,
                "evolution.learning_rate": 0.01,
                "lora.form": "both",
                "evolution.update_scale": "absolute",
                "evolution.shaping": "zscore",
                "evolution.antithetic": False,
                "evolution.noise.kind": "per-layer",
                "evolution.noise.fraction": 0.1,
                "evolution.noise.multiplier": 20,
                "task.name": "conciseness",
                "task.train": None,
                "task.test": None,
            },
        ),
        (
            "qwen2.5-7b-conciseness",
            {
                "model.path": "Qwen/Qwen2.5-7B-Instruct",
                "init.scale": 1,
                "evolution.noise.multiplier": 1.0,
                "evolution.generations": 50,
            },
        ),
        (
            "paper-conciseness",
            {
                "evolution.noise.kind": "constant",
                "evolution.noise.std": 1e-3,
                "evolution.learning_rate": 5e-4,
                "evolution.generations": 1000,
            },
        ),
        (
            "tiny-chat",
            {
                "model.path": "bundled",
                "lora.form": "both",
                "lora.rank": 1,
                "lora.alpha": 2,
                "evolution.population": 30,
                "evolution.generations": 50,
                "evolution.learning_rate": 0.05,
                "evolution.update_scale": "absolute",
                "evolution.noise.kind": "relative",
                "evolution.noise.relative": 0.3,
            },
        ),
    ],
)
def test_a_preset_has_its_values(preset, values):
    config = load(preset=preset)
    assert {key: get(config, key) for key in values} == values


def test_replace_changes_dotted_keys_and_checks_them():
    config = Config().replace(evolution__seed=5, evolution__noise__std=0.5)
    assert (config.evolution.seed, config.evolution.noise.std) == (5, 0.5)
    with pytest.raises(UserError, match="evolution.seed"):
        Config().replace(evolution__seed=-5)


def test_yaml_is_plain():
    tree = yaml.safe_load(Config().to_yaml())
    assert tree.pop("format") == FORMAT
    assert list(tree)[:8] == [
        "model", "lora", "init", "evolution", "task", "evaluation", "guard", "engine",
    ]  # fmt: skip
    assert Config.parse(tree) == Config()


@pytest.mark.parametrize(
    "change",
    [
        {"evolution__generations": 99},
        {"cluster__workers": 3},
        {"cluster__wait_timeout": 1.0},
        {"output__keep": 1},
        {"output__dir": "x"},
        {"engine__sglang": {"mem_fraction_static": 0.7}},
    ],
)
def test_a_resumed_run_may_change_what_alters_no_byte(change):
    assert differences(Config(), Config().replace(**change)) == []
    assert changed_bytes(Config(), Config().replace(**change)) == []


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"engine__shard": 5}, ["engine.shard"]),
        ({"engine__threads": 2, "engine__shard": 5}, ["engine.shard", "engine.threads"]),
    ],
)
def test_it_may_change_a_batch_at_the_price_of_other_bytes(change, keys):
    assert differences(Config(), Config().replace(**change)) == []
    assert changed_bytes(Config(), Config().replace(**change)) == keys


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"evolution__seed": 5}, "evolution.seed"),
        ({"evolution__noise__multiplier": 5}, "evolution.noise.multiplier"),
        ({"lora__layers": "0"}, "lora.layers"),
        ({"evaluation__every": 2}, "evaluation.every"),
        ({"engine__sglang": {"a": 1}}, "engine.sglang"),
    ],
)
def test_any_other_difference_is_named(change, key):
    before = load(preset="seed-conciseness")
    named = differences(before, before.replace(**change))
    assert named
    assert all(text.startswith(key) for text in named)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("all", None), ("0-3", [0, 1, 2, 3]), ("5,0,2", [0, 2, 5]), ("0-2,1-3, 7", [0, 1, 2, 3, 7]), ("4", [4])],
)
def test_layers_are_numbers_and_ranges(text, numbers):
    assert layer_numbers(text) == numbers


@pytest.mark.parametrize(
    ("preset", "sets", "kind", "values"),
    [
        ("tiny-chat", ["noise.std=0.01"], "constant", (None, None, 0.01)),
        ("tiny-chat", ["noise.kind=constant"], "constant", (None, None, 0.001)),
        ("tiny-chat", ["noise.kind=constant", "noise.std=0.01"], "constant", (None, None, 0.01)),
        ("tiny-chat", ["noise.kind=per-module"], "per-module", (0.1, 22.0, None)),
        ("tiny-chat", ["noise.multiplier=3"], "per-layer", (0.1, 3.0, None)),
        ("paper-conciseness", ["noise.kind=per-layer", "noise.multiplier=2"], "per-layer", (0.1, 2.0, None)),
        ("general", ["noise.std=0.5"], "constant", (None, None, 0.5)),
        ("general", ["noise.multiplier=2"], "per-layer", (0.1, 2.0, None)),
        ("general", ["noise.kind=per-module", "noise.multiplier=2"], "per-module", (0.1, 2.0, None)),
        ("paper-conciseness", ["noise.multiplier=2"], "per-layer", (0.1, 2.0, None)),
        ("paper-conciseness", ["noise.std=0.5"], "constant", (None, None, 0.5)),
    ],
)
def test_noise_of_another_kind_replaces_that_of_the_layer_below(preset, sets, kind, values, tmp_path):
    by_set = load(preset=preset, sets=[f"evolution.{item}" for item in sets]).evolution.noise
    keys = dict(item.removeprefix("noise.").split("=") for item in sets)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"evolution": {"noise": {k: yaml.safe_load(v) for k, v in keys.items()}}}))
    by_file = load(preset=preset, file=file).evolution.noise
    changes = {f"evolution__noise__{k}": yaml.safe_load(v) for k, v in keys.items()}
    replaced = load(preset=preset).replace(**changes).evolution.noise
    for found in (by_set, by_file, replaced):
        assert (found.kind, (found.fraction, found.multiplier, found.std)) == (kind, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{kind: per-layer, std: 0.1}", "evolution.noise.std: 0.1 has no effect on noise of kind per-layer"),
        ("{kind: constant, multiplier: 2}", "evolution.noise.multiplier: 2 has no effect"),
        ("{relative: 0.1, std: 0.1}", "evolution.noise.relative: 0.1 has no effect on noise of kind const"),
        (
            "{relative: 0.1, fraction: 0.1}",
            "evolution.noise.relative: 0.1 has no effect on noise of kind",
        ),
        ("{kind: relative, multiplier: 2}", "evolution.noise.multiplier: 2 .* for per-layer or per-module"),
        (
            "{std: 0.1, fraction: 0.5}",
            "evolution.noise.fraction: 0.5 has no effect on noise of kind constant",
        ),
    ],
)
def test_a_key_of_another_kind_of_noise_in_one_layer_is_an_error(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(f"evolution: {{noise: {text}}}\n")
    with pytest.raises(UserError, match=words):
        load(file=file)


def test_a_section_without_keys_changes_nothing(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model:\nlora:\noutput:\n")
    assert load(preset="seed-conciseness", file=file) == load(preset="seed-conciseness")
    assert load(file=file) == load()


@pytest.mark.parametrize(
    "text",
    ["tracking: {}", "tracking:\nevolution: {population: 4}", "tracking: {}\nevolution:",
     "tracking: {}\nevolution: {noise: {multiplier: 3}}"],
)  # fmt: skip
def test_the_empty_section_that_0_1_0_had_is_read_anywhere(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    load(file=file)


def test_a_malformed_section_beside_it_is_an_error_of_one_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tracking: {}\nevolution: [1]\n")
    with pytest.raises(UserError, match="evolution"):
        load(file=file)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("evolution:\n  population: 4\n generations: 3\n", "line 3, column 2: not valid YAML: did not find"),
        ("a: [1, 2\nb: 3\n", "line 2, column 2: not valid YAML: did not find expected"),
    ],
)
def test_where_a_file_is_no_yaml_is_said_by_line_and_column(text, where, tmp_path):
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}, {where}")
    assert "unicode string" not in str(caught.value)

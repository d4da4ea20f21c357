"""`es-ray export` and `es_ray.export`: what is exported, what is refused, and the hub."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM

import es_ray
from es_ray.paths import data_dir
from tests.drivers import Drivers, Exited
from tests.exporting.edited import edit_states
from tests.exporting.hub_server import hub_server
from tests.plain_peft import adapted_model, logits, tokenizer_of
from tests.short_runs import TOKENS, tensors
from tests.short_runs import command as command_line
from tests.small_models import edit_json

TOKEN = "hf_" + "a" * 34


def same(one: Path, other: Path) -> bool:
    found = tensors(one), tensors(other)
    return found[0].keys() == found[1].keys() and all(
        np.array_equal(found[0][name], found[1][name]) for name in found[0]
    )


def test_the_selected_centre_is_exported_by_default(copied, tmp_path, cli):
    edit_json(copied / "selected.json", generation=1)
    ended = cli("export", copied, "--output", tmp_path / "a")
    assert ended.code == 0, ended.err
    assert ended.out == (
        f"wrote {tmp_path / 'a'}: the centre after generation 1, a PEFT adapter of tiny_chat\n"
    )
    assert same(tmp_path / "a", copied / "generations/0001/adapter")
    (copied / "selected.json").unlink()  # as in a run without a guard, or one that has not ended
    assert cli("export", copied, "--output", tmp_path / "b").code == 0
    assert same(tmp_path / "b", copied / "generations/0003/adapter")


def test_a_start_that_was_selected_is_said_to_be_one(copied, tmp_path, cli):
    edit_json(copied / "selected.json", generation=-1)
    ended = cli("export", copied, "--output", tmp_path / "a")
    assert "no update has changed this adapter" in ended.out
    assert not same(tmp_path / "a", copied / "generations/0000/adapter")


@pytest.mark.parametrize(
    ("options", "which"),
    [(["--last"], "0003/adapter"), (["--generation", 0], "0000/adapter"), (["--best"], None)],
)
def test_others_by_option(finished, tmp_path, cli, options, which):
    assert cli("export", finished.path, "--output", tmp_path / "a", *options).code == 0
    if which is None:
        best = json.loads((finished.path / "test_results.json").read_text())["best"]
        which = f"{best['generation']:04d}/best"
        written = cli(
            "export", finished.path, "--output", tmp_path / "b",
            "--generation", best["generation"], "--index", best["index"],
        )  # fmt: skip
        assert written.code == 0
        assert same(tmp_path / "b", tmp_path / "a")
    assert same(tmp_path / "a", finished.path / "generations" / which)


def test_plain_peft_loads_the_adapter(finished, tmp_path):
    done = es_ray.export(finished.path, tmp_path / "a", last=True)
    assert (done.generation, done.index, done.agreement, done.url) == (3, None, None, None)
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32).eval()
    ids = tokenizer_of(data_dir() / "tiny_chat")("What is the capital of France?")["input_ids"]
    wanted = logits(adapted_model(finished.path / "generations/0003/adapter"), ids)
    assert torch.equal(logits(model, ids), wanted)


def test_the_merged_bundled_model_answers_as_the_run_recorded(finished, tmp_path):
    """The best member's answers in test_results.json, from a model that knows nothing of es-ray or PEFT."""
    from transformers import AutoModelForCausalLM

    from tests.plain_peft import answer

    results = json.loads((finished.path / "test_results.json").read_text())
    exported = es_ray.export(finished.path, tmp_path / "m", best=True, merged=True)
    assert exported.agreement.same == exported.agreement.tokens
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    tokenizer, stop_ids = tokenizer_of(tmp_path / "m"), model.generation_config.eos_token_id
    stop_ids = stop_ids if isinstance(stop_ids, list) else [stop_ids]
    answers = [
        answer(model, tokenizer, example["prompt"], TOKENS, stop_ids)
        for example in results["best"]["examples"]
    ]
    assert answers == [example["completion"] for example in results["best"]["examples"]]
    assert answers != [example["completion"] for example in results["base"]["examples"]]


REFUSED = [
    ("export missing --output new", "missing"),
    ("export run --output used", "--output", "used"),
    ("export run --output file.txt", "--output", "file.txt"),
    ("export run --output file.txt/new", "file.txt/new"),
    ("export run", "--output"),
    ("export run --output new --generation 9", "--generation 9", "0-3"),
    ("export run --output new --generation -1", "--generation -1", "0-3"),
    ("export run --output new --index 1", "--index 1", "--generation"),
    ("export run --output new --generation 0 --index 6", "--index 6", "0-5"),
    ("export run --output new --best --last", "--best", "--last"),
    ("export run --output new --generation 1 --best", "--generation", "--best"),
    ("export run --output new --private", "--private", "--push-to-hub"),
    ("export run --output new --push-to-hub a/b/c", "a/b/c", "OWNER/NAME"),
    ("export run --output new --push-to-hub me/it", "--base OWNER/NAME", "--merged"),
    ("export run --output new --base tiny", "--base tiny", "OWNER/NAME"),
    ("export run --output new --base ./a/tiny", "--base ./a/tiny", "OWNER/NAME"),
    ("export run --output new --base https://hub/owner/tiny", "--base https", "OWNER/NAME"),
    ("export run --output link", "--output link", "is a link"),
]


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in REFUSED])
def test_bad_input_ends_with_2_and_writes_nothing(finished, tmp_path, cli, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(finished.path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "file.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    ended = cli(*line.split())
    assert ended.code == 2, ended.err
    assert len(ended.err.splitlines()) == 1
    assert all(word in ended.err for word in words), ended.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_with_other_weights_is_refused(copied, tmp_path, cli):
    edit_states(copied, weights={"model.safetensors": "0" * 64})
    ended = cli("export", copied, "--output", tmp_path / "a", "--last")
    assert ended.code == 1
    assert "other weights" in ended.err
    assert not (tmp_path / "a").exists()


def test_torn_results_are_named(copied, tmp_path, cli):
    file = copied / "test_results.json"
    file.write_text(file.read_text()[:-30])
    ended = cli("export", copied, "--output", tmp_path / "a", "--last")
    assert ended.code == 1
    assert ended.err == f"es-ray: {file}: torn or edited: it is no JSON\n"
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def port() -> int:
    """Where the hub is: huggingface_hub reads its address once, so all of them are there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def exporting(port, tmp_path_factory) -> Iterator[Drivers]:
    """Processes that know this hub."""
    drivers = Drivers(
        tmp_path_factory.mktemp("exporting"),
        HF_ENDPOINT=f"http://127.0.0.1:{port}",
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
        HF_HOME=str(tmp_path_factory.mktemp("hf")),
    )
    yield drivers
    drivers.close()


@pytest.fixture
def pushed(exporting) -> Callable[..., Exited]:
    """`pushed(run, output, *options)`: the command, with a token."""

    def export(run: Path, output: Path, *options: object, token: str = TOKEN) -> Exited:
        arguments = ("export", run, "--output", output, "--last", *options)
        return exporting(*arguments, environment={"HF_TOKEN": token})

    return export


@pytest.mark.parametrize("kind", [["--merged"], ["--base", "owner/tiny"]])
def test_what_the_hub_receives_is_the_folder(finished, tmp_path, port, pushed, kind):
    with hub_server(TOKEN, port) as hub:
        done = pushed(finished.path, tmp_path / "m", *kind, "--push-to-hub", "tiny-concise", "--private")
    assert done.code == 0, done.err
    assert f"pushed to {hub.url}/someone/tiny-concise" in done.out
    assert hub.files == {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}
    assert hub.private is True
    assert TOKEN not in done.out + done.err
    matter = yaml.safe_load(hub.card.split("---\n")[1])
    assert matter["library_name"] == ("transformers" if kind == ["--merged"] else "peft")
    if kind != ["--merged"]:  # others have no folder of this machine
        assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "owner/tiny"
        assert str(data_dir()).encode() not in b"".join(hub.files.values())


@pytest.mark.parametrize(
    "kind", [pytest.param(["--merged"], marks=pytest.mark.slow), ["--base", "owner/tiny"]]
)
def test_weights_of_an_earlier_push_are_replaced(finished, tmp_path, port, pushed, kind):
    with hub_server(TOKEN, port) as hub:
        others = {"notes.md": b"mine", ".gitattributes": b""}
        earlier = (
            "adapter_config.json",
            "adapter_model.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        )
        hub.files |= others | dict.fromkeys(earlier, b"of an earlier push")
        done = pushed(finished.path, tmp_path / "m", *kind, "--push-to-hub", "owner/it")
        assert done.code == 0, done.err
    assert hub.files == others | {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}


@pytest.mark.parametrize("has_changed", [True, False])
def test_a_model_of_the_hub_is_merged_only_if_it_has_the_evolved_weights(
    copied, tmp_path, port, pushed, has_changed
):
    """Its weights are not on this machine until they are merged."""
    name = f"owner/{'other' if has_changed else 'same'}"  # which is downloaded once
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["model"]["path"] = name
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    with hub_server(TOKEN, port) as hub:
        hub.files |= {
            file.name: file.read_bytes() for file in (data_dir() / "tiny_chat").iterdir() if file.is_file()
        }
        if has_changed:
            weights = hub.files["model.safetensors"]
            hub.files["model.safetensors"] = weights[:-4] + bytes(4)
        done = pushed(copied, tmp_path / "m", "--merged")
    if has_changed:
        assert done.code == 1, done.out
        assert "other weights: model.safetensors differs" in done.err
        assert not (tmp_path / "m").exists()
    else:
        assert done.code == 0, done.err
        assert f"merged into {name}" in done.out


def test_a_mount_point_is_refused_before_anything_is_computed(finished, tmp_path):
    """In a mount namespace of its own, where it is a user's to mount something."""
    (tmp_path / "volume").mkdir()
    mounted = f'mount -t tmpfs none {tmp_path}/volume && exec "$@"'
    line = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*line, "true"], capture_output=True).returncode:
        pytest.skip("this user cannot mount anything")
    export = command_line("export", finished.path, "--output", tmp_path / "volume")
    done = subprocess.run([*line, *export], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert f"--output {tmp_path}/volume: is a mount point" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_hub_that_refuses_leaves_the_folder_and_one_line(finished, tmp_path, port, pushed):
    options = ("--base", "owner/tiny", "--push-to-hub", "me/tiny")
    with hub_server(TOKEN, port) as hub:
        refused = pushed(finished.path, tmp_path / "a", *options, token="hf_" + "b" * 34)
        assert not hub.files
    unreachable = pushed(finished.path, tmp_path / "b", *options)  # it has stopped
    for done, words in ((refused, ("401", "HF_TOKEN")), (unreachable, ("--push-to-hub me/tiny",))):
        assert done.code == 1
        assert len(done.err.splitlines()) == 1, done.err
        assert all(word in done.err for word in words)
        assert "hf_" not in done.err
    assert "Traceback" not in unreachable.err
    assert same(tmp_path / "a", tmp_path / "b")

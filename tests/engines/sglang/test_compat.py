"""What es-ray needs of SGLang, against the source of real versions where available (see conftest.py)."""

import shutil
from pathlib import Path

import pytest

from es_ray.config import Config
from es_ray.engines.sglang import arguments, compat
from es_ray.errors import UserError
from es_ray.models import ModelSource


def fake(folder: Path, version: str = "0.5.20") -> Path:
    """A package with the names that es-ray needs, and nothing else: the check's input, not SGLang."""
    root = folder / "sglang"
    by_file: dict[str, list[str]] = {}
    for (file, owner), names in compat.NAMES.items():
        parameters = {name: compat.PARAMETERS.get((file, owner, name), ()) for name in names}
        lines = [f"    def {name}(self, {', '.join(parameters[name])}): ..." for name in names]
        text = "\n".join([f"class {owner}:", *lines] if owner else [line.strip() for line in lines])
        by_file.setdefault(file, []).append(text)
    by_file["srt/server_args.py"] = ["class ServerArgs:\n    model_path: str\n    dtype: str = 'auto'"]
    by_file["_version.py"] = [f"__version__ = version = '{version}'"]
    for file, texts in by_file.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("\n".join(texts) + "\n")
    return root


def test_real_versions_have_every_name(root):
    compat.check(root)


def test_real_versions_have_every_argument_that_is_set(root):
    known = compat.argument_names(root)
    config = Config().replace(engine__kind="sglang", engine__shard=32)
    made = arguments.server_arguments(config, ModelSource.of(config.model), 60, known)
    assert set(made) <= known
    assert "custom_sigquit_handler" in known
    assert set(arguments.OURS) <= known


def test_a_name_near_a_real_argument_is_suggested(root):
    known = compat.argument_names(root)
    with pytest.raises(UserError, match="engine.sglang.mem_fraction: .*mem_fraction_static"):
        arguments.check_passed_through({"mem_fraction": 0.5}, known)


def test_a_complete_package_passes(tmp_path):
    compat.check(fake(tmp_path))


@pytest.mark.parametrize(
    ("file", "name", "full"),
    [
        ("srt/lora/lora_manager.py", "update_lora_info", "LoRAManager.update_lora_info"),
        ("srt/managers/scheduler.py", "flush_cache", "Scheduler.flush_cache"),
        ("srt/entrypoints/engine.py", "collective_rpc", "Engine.collective_rpc"),
        ("srt/layers/utils/common.py", "get_layer_id", "get_layer_id"),
    ],
)
def test_a_name_that_moved_is_reported_with_the_version(tmp_path, file, name, full):
    root = fake(tmp_path)
    text = (root / file).read_text()
    (root / file).write_text(text.replace(f"def {name}(", f"def moved_{name}("))
    with pytest.raises(UserError, match=rf"SGLang 0.5.20 has no .*{full}: es-ray supports sglang 0.5.17"):
        compat.check(root)


@pytest.mark.parametrize(
    ("file", "name", "full"),
    [
        ("srt/managers/scheduler.py", "tp_rank", "run_scheduler_process"),
        ("srt/layers/sampler.py", "sampling_info", "Sampler.forward"),
    ],
)
def test_a_parameter_that_has_another_name_is_reported(tmp_path, file, name, full):
    root = fake(tmp_path)
    text = (root / file).read_text()
    (root / file).write_text(text.replace(name, f"other_{name}"))
    with pytest.raises(UserError, match=f"has no parameter {name} of .*{full}"):
        compat.check(root)


def test_a_file_that_moved_is_reported(tmp_path):
    root = fake(tmp_path)
    shutil.rmtree(root / "srt/lora")
    with pytest.raises(UserError, match="has no LoRAManager.init_lora_modules"):
        compat.check(root)


@pytest.mark.parametrize(
    ("version", "fine"), [("0.5.16.post2", False), ("0.5.17", True), ("0.5.23.post1", True)]
)
def test_old_versions_are_refused(tmp_path, monkeypatch, version, fine):
    root = fake(tmp_path, version)
    if fine:
        compat.check(root)
    for unchecked in () if fine else ("0", "1"):
        monkeypatch.setenv(compat.UNCHECKED, unchecked)
        with pytest.raises(UserError, match="0.5.16.post2 is too old"):
            compat.check(root)


@pytest.mark.parametrize("version", ["0.5.23.1", "0.5.24", "0.6.0rc1", "1.0"])
def test_untested_versions_are_refused_with_a_workaround(tmp_path, version):
    with pytest.raises(UserError, match=rf"{version} is newer than any.* ES_RAY_SGLANG_UNCHECKED=1") as error:
        compat.check(fake(tmp_path, version))
    assert "\n" not in str(error.value)


def test_unchecked_versions_are_warned_about_once(tmp_path, monkeypatch, caplog):
    root = fake(tmp_path, "0.7.0")
    file = root / "srt/lora/lora_manager.py"
    file.write_text(file.read_text().replace("def update_lora_info(", "def other("))
    monkeypatch.setenv(compat.UNCHECKED, "1")
    for _ in range(3):
        compat.check(root)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "0.7.0 is newer than any" in record.message
    assert "has no LoRAManager.update_lora_info" in record.message


@pytest.mark.parametrize(
    ("text", "numbers"), [("0.5.17", (0, 5, 17)), ("0.5.17.post1", (0, 5, 17)), ("1.0rc2", (1, 0)), ("?", ())]
)
def test_versions_are_parsed(text, numbers):
    assert compat.parsed(text) == numbers

import logging

import pytest

import es_ray
from es_ray.config import load
from tests.judge.report.pages import parsed
from tests.short_runs import GENERATIONS


class FolderInTheWay(es_ray.Callback):
    """Puts a folder where the report goes."""

    def on_run_start(self, run):
        self._path = run.path

    def on_generation_recorded(self, generation):
        (self._path / "report.html").mkdir(exist_ok=True)


def tiny(path, *sets):
    made = load(sets=["task.max_new_tokens=4", "engine.shard=4", *sets])
    return made.replace(
        evolution__population=2, evolution__generations=2, cluster__workers=0, output__dir=str(path)
    )


def test_a_run_ends_with_a_report_and_names_it(finished):
    said, _ = parsed((finished.path / "report.html").read_text(encoding="utf-8"))
    assert f"complete: {GENERATIONS} generations" in said
    assert f"  report  {finished.path}/report.html" in finished.out


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path, caplog, capfd):
    with caplog.at_level(logging.WARNING, "es_ray"):
        run = es_ray.run(tiny(tmp_path / "run"), callbacks=[FolderInTheWay(), es_ray.TerminalConsole()])
    assert (run.path / "test_results.json").is_file()
    (warning,) = [record.getMessage() for record in caplog.records if "report" in record.getMessage()]
    assert f"could not be written: {run.path}/report.html: cannot be written: Is a directory" in warning
    assert "  report  " not in capfd.readouterr().out


def test_without_plots_there_is_no_report(tmp_path):
    run = es_ray.run(tiny(tmp_path / "run", "output.plots_every=null"))
    assert not (run.path / "report.html").exists()


@pytest.mark.parametrize("generations", [GENERATIONS, GENERATIONS + 1])
def test_a_resumed_run_has_a_report_of_all_its_generations(copied, cli, generations):
    (copied / "report.html").write_text("of an earlier end")
    ended = cli("run", "--resume", "--output", copied, "--generations", generations)
    assert ended.code == 0, ended.err
    said, _ = parsed((copied / "report.html").read_text(encoding="utf-8"))
    assert f"complete: {generations} generations" in said
    assert f"from generation {GENERATIONS}" in said


def test_a_run_in_the_working_directory_has_a_report(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    es_ray.run(tiny("."))
    said, _ = parsed((tmp_path / "run/report.html").read_text(encoding="utf-8"))
    assert f"--output {tmp_path}/run-again" in said

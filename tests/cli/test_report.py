import json
import shutil


def test_it_writes_the_report_of_a_run_again(copied, cli):
    written = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    ended = cli("report", copied)
    assert (ended.code, ended.out, ended.err) == (0, f"wrote {copied}/report.html\n", "")
    again = (copied / "report.html").read_text(encoding="utf-8")
    assert again.count("<svg") == written.decode().count("<svg")


def test_elsewhere_and_as_json(finished, tmp_path, cli):
    before = {p: p.stat().st_mtime_ns for p in finished.path.rglob("*")}
    ended = cli("report", finished.path, "--output", tmp_path / "a.html", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == {"report": str(tmp_path / "a.html")}
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {p: p.stat().st_mtime_ns for p in finished.path.rglob("*")} == before


def test_bad_input_ends_with_2_and_one_line(finished, tmp_path, cli):
    shutil.copy(finished.path / "config.yaml", tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, wanted in (
        ((tmp_path / "empty",), "not a run directory"),
        ((tmp_path / "nothing",), "not a run directory"),
        ((tmp_path,), "has no finished generation to report"),
        ((finished.path, "--output", tmp_path), "is a folder; name a file"),
        ((finished.path, "--output", tmp_path / "no" / "a.html"), "which is no folder"),
    ):
        ended = cli("report", *arguments)
        assert ended.code == 2
        assert len(ended.err.splitlines()) == 1
        assert wanted in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "empty"]


def test_a_torn_run_ends_with_1_and_the_files_name(copied, cli):
    (copied / "test_results.json").write_text("{")
    ended = cli("report", copied)
    assert ended.code == 1
    assert ended.err == f"es-ray: {copied}/test_results.json: torn or edited: no JSON\n"

"""Data as they come: formats, fields, chats, and what is said about rows that are no examples."""

import csv
import gzip
import hashlib
import io
import json
import random
import tracemalloc

import pytest

from es_ray.config import ColumnsConfig, Config
from es_ray.errors import UserError
from es_ray.experiment import Experiment
from es_ray.tasks import TASKS, Example, Score, Task
from es_ray.tasks.data import examples_of, fingerprint, longest_prompts, shortest_prompts

GOOD = {"prompt": "a", "target": "b"}
USER = {"role": "user", "content": "Why?"}
SYSTEM = {"role": "system", "content": "Be short."}
ANSWER = {"role": "assistant", "content": "So."}


class Anything(Task):
    """Takes any example."""

    def score(self, example, completion):
        return Score(0.0)


class Puzzle(Anything):
    """Makes its prompts from other fields."""

    def example(self, row, where):
        return Example(f"Reach {row['goal']}.", row["goal"], {"numbers": row["numbers"]}, where)


def write(path, *lines: object):
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def read(path, task: Task | None = None, **columns: str) -> list[Example]:
    return list(examples_of(path, task or Anything(), ColumnsConfig(**columns)))


def refusal(path, task: Task | None = None, **columns: str) -> str:
    """What is said about data; it is one line that names the file."""
    with pytest.raises(UserError) as error:
        examples_of(path, task or Anything(), ColumnsConfig(**columns))
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_examples_are_read_in_order_with_unicode_and_blank_lines(tmp_path):
    file = write(
        tmp_path / "data.jsonl",
        {"prompt": "Übersetze: 日本\u2028?", "target": "Japan"},
        "",
        {"prompt": "2 + 2 =", "target": "4", "source": "more keys do not hurt"},
        "",
    )
    examples = read(file)
    assert examples == [
        Example("Übersetze: 日本\u2028?", "Japan"),
        Example("2 + 2 =", "4", {"source": "more keys do not hurt"}),
    ]  # fmt: skip
    assert [example.where for example in examples] == [f"{file}, line 1", f"{file}, line 3"]


@pytest.mark.parametrize("target", ["So.", 5, -0.25, True, ["4", "four"], {"numbers": [3, 4]}, 0, [], None])
def test_targets_may_be_of_any_kind_of_json_or_missing(tmp_path, target):
    file = write(tmp_path / "data.jsonl", {"prompt": "p", "target": target}, {"prompt": "p"})
    assert [example.target for example in read(file)] == [target, None]


@pytest.mark.parametrize(
    ("lines", "number", "about"),
    [
        ([GOOD, '{"prompt": "a", "tar'], 2, "JSON"),
        ([GOOD, "", GOOD, "nonsense"], 4, "JSON"),
        ([GOOD, "{'prompt': 'a'}"], 2, "JSON"),
        (['{"prompt": "a", "target": NaN}'], 1, "NaN is no value of JSON"),
        (['{"prompt": "a", "target": 1e999}'], 1, "'target' must be a text, a finite number"),
        (['{"prompt": "a", "target": [1, -1e999]}'], 1, "'target' must be a text, a finite number"),
        ([GOOD, '{"prompt": "\\ud83d", "target": "b"}'], 2, "'prompt' holds half of a surrogate pair"),
        ([GOOD, '{"prompt": "a", "deep": [{"x": "\\uDE00"}]}'], 2, "'deep' holds half of a surrogate pair"),
        (["[" * 100_000], 1, "JSON"),
        (["[", json.dumps(GOOD), "]"], 1, ".json"),
        ([{"target": "a"}], 1, "'prompt' is missing; the fields there are 'target'"),
        ([GOOD, {"Prompt": "a"}], 2, "the fields there are 'Prompt'"),
        ([{}], 1, "the fields there are none"),
        ([{"prompt": "", "target": "b"}], 1, "'prompt' is empty"),
        ([{"prompt": "\t\n", "target": "b"}], 1, "'prompt' is empty"),
        ([{"prompt": None, "target": "b"}], 1, "'prompt' is empty"),
        ([{"prompt": 5, "target": "b"}], 1, "'prompt' must be text, or a chat's turns, not 5"),
        ([{"prompt": "a", "target": " "}], 1, "'target' is empty"),
        ([["a", "b"]], 1, 'an object with prompt and target is wanted, not ["a", "b"]'),
        (["5"], 1, "an object"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, lines, number, about):
    message = refusal(write(tmp_path / "data.jsonl", *lines))
    assert f"line {number}:" in message
    assert about in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "row", [{"prompt": "a"}, {"prompt": "a", "answer": "b"}, {"prompt": "a", "target": 5}]
)
def test_a_target_that_the_task_does_not_take_is_found_at_the_start(tmp_path, row):
    file = write(tmp_path / "data.jsonl", GOOD, row)
    message = refusal(file, TASKS["conciseness"]())
    assert "line 2:" in message and "target" in message
    assert "'answer'" in message or "answer" not in row
    assert len(read(file)) == 2


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf\r\n"])
@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.json", "data.txt"])
def test_a_file_without_examples_is_an_error(tmp_path, content, name):
    file = tmp_path / name
    file.write_bytes(content)
    assert "holds no examples" in refusal(file)


def test_an_empty_array_and_a_header_alone_are_no_examples(tmp_path):
    assert "holds no examples" in refusal(write(tmp_path / "data.json", "[]"))
    assert "holds no examples" in refusal(write(tmp_path / "data.csv", "prompt,target"))


def test_a_file_that_is_no_text_is_an_error_with_its_line(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n{"prompt": "Gr\xf6\xdfe"}\n')
    message = refusal(file)
    assert "line 2" in message and "UTF-8" in message
    file.write_bytes(b"\xff\xfe\x00\x80")
    refusal(file)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "missing/data.csv"])
def test_a_missing_file_is_an_error_that_lists_the_formats(tmp_path, name):
    message = refusal(tmp_path / name)
    assert "no such file" in message
    assert "JSONL, JSON, CSV or Parquet, or hf:" in message


TWO = [{"prompt": "Größe?", "target": "groß", "level": "3"}, {"prompt": 'say "a, b"\nnow', "target": "a"}]
EXPECTED = [Example("Größe?", "groß", {"level": "3"}), Example('say "a, b"\nnow', "a", {"level": None})]


def as_csv(separator: str = ",", end: str = "\r\n") -> str:
    lines = [["prompt", "target", "level"], *([r["prompt"], r["target"], r.get("level", "")] for r in TWO)]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(lines)
    return text.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\r\n\r\n  \n"])
@pytest.mark.parametrize("name", ["data.jsonl", "data.ndjson", "DATA.JSONL", "data.json", "data.txt", "data"])
def test_byte_order_marks_line_ends_and_trailing_blanks_are_no_errors(tmp_path, name, end, encoding):
    rows = [{"level": None} | row for row in TWO]
    file = tmp_path / name
    file.write_bytes("".join(f"{json.dumps(row)}{end}" for row in rows).encode(encoding))
    assert read(file) == EXPECTED


@pytest.mark.parametrize("name", ["data.json", "data"])
def test_an_array_of_objects_is_read(tmp_path, name):
    file = tmp_path / name
    file.write_text("\ufeff\n" + json.dumps([{"level": None} | row for row in TWO], indent=2) + "\n\n")
    assert read(file) == EXPECTED
    assert read(file)[1].where == f"{file}, row 2"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.csv", as_csv()),
        ("data.csv", as_csv(end="\n")),
        ("data.csv", as_csv(";")),
        ("data.tsv", as_csv("\t")),
        ("data.csv", "\r\n" + as_csv() + "\r\n , ,\r\n\r\n"),
    ],
)
def test_csv_is_read_with_its_separator(tmp_path, name, text, encoding):
    file = tmp_path / name
    file.write_bytes(text.encode(encoding))
    assert read(file) == EXPECTED


def test_a_row_of_csv_is_named_by_its_first_line(tmp_path):
    file = write(tmp_path / "data.csv", "prompt,target", '"two\nlines",x', "", "next,y")
    assert [example.where for example in read(file)] == [f"{file}, line {number}" for number in (2, 5)]


def test_blanks_after_a_quoted_cell_are_no_error(tmp_path):
    file = write(tmp_path / "data.csv", '"prompt","target" ', '"a","b, c" \t\r', '"d","e"  ')
    assert read(file) == [Example("a", "b, c"), Example("d", "e")]


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path):
    before = csv.field_size_limit()
    file = write(tmp_path / "data.csv", "prompt,target", f"{'x' * 300_000},y")
    assert len(read(file)[0].prompt) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt,target\na,b\nc,d,e\n", ["line 3", "3 cells, the header names 2", "quotes"]),
        ("prompt,target,level\na,b\n", ["line 2", "2 cells, the header names 3"]),
        ('prompt,target\na,b\n"torn,b\nc,d\n', ["line 3", "no valid CSV"]),
        ("prompt,prompt\na,b\n", ["line 1", "'prompt' more than once"]),
        ("a,b\nc,d\n", ["line 2", "'prompt' is missing; the fields there are 'a', 'b'"]),
        ("prompt,target\n,b\n", ["line 2", "'prompt' is empty"]),
    ],
)
def test_bad_csv_is_named_with_its_line(tmp_path, text, words):
    file = tmp_path / "data.csv"
    file.write_text(text)
    message = refusal(file)
    assert all(word in message for word in words), message


def test_an_empty_cell_is_a_missing_target_and_a_column_without_a_name_is_left_out(tmp_path):
    file = write(tmp_path / "data.csv", ",prompt,target,", "0,a,,", "1,b,c")
    assert "4 cells" not in refusal(file)
    file = write(tmp_path / "data.csv", ",prompt,target", "0,a,", "1,b,c,")
    assert read(file) == [Example("a"), Example("b", "c")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"prompt": "a"},\n {"prompt": "b"', ["line 2", "JSON"]),
        ('[{"prompt": "a"}, 5]', ["row 2", "an object"]),
        ('[{"prompt": "a"}, {"prompt": "\\ud800"}]', ["row 2", "'prompt' holds half"]),
        ('{"data": [{"prompt": "a"}]}', ["line 1", "the fields there are 'data'"]),
        ('[{"prompt": "a", "target": Infinity}]', ["Infinity is no value of JSON"]),
    ],
)
def test_bad_json_is_named_with_its_row(tmp_path, text, words):
    file = tmp_path / "data.json"
    file.write_text(text)
    message = refusal(file)
    assert all(word in message for word in words), message


def test_gzip_is_unpacked_and_a_torn_one_named(tmp_path):
    packed = gzip.compress("\n".join(json.dumps({"level": None} | row) for row in TWO).encode())
    for name in ("data.jsonl.gz", "data.json.gz", "data.jsonl"):
        (tmp_path / name).write_bytes(packed)
        assert read(tmp_path / name) == EXPECTED
    (tmp_path / "data.jsonl.gz").write_bytes(packed[:-20])
    assert "cannot be read" in refusal(tmp_path / "data.jsonl.gz")


def test_a_file_of_no_known_form_is_refused_with_the_suffixes(tmp_path):
    file = write(tmp_path / "data.txt", "prompt,target", "a,b")
    assert ".jsonl, .ndjson, .json, .csv, .tsv, .parquet" in refusal(file)
    file.write_bytes(b"PK\x03\x04\xff\xfe")
    refusal(file)


def test_columns_are_named_by_the_user(tmp_path):
    file = write(tmp_path / "data.jsonl", {"question": "Why?", "answer": "So.", "target": "x", "id": 7})
    assert read(file, prompt="question", target="answer") == [
        Example("Why?", "So.", {"target": "x", "id": 7})
    ]


def test_chats_need_neither_the_prompts_column_nor_the_targets(tmp_path):
    file = write(tmp_path / "data.jsonl", {"messages": [USER, ANSWER]})
    assert read(file, prompt="question", target="answer") == [Example("Why?", "So.")]


def test_a_tasks_own_data_have_the_usual_columns(tmp_path):
    file = write(tmp_path / "train.csv", "question,answer", "Why?,So.")
    columns = {"prompt": "question", "target": "answer"}
    config = Config.parse({"task": {"train": str(file), "columns": columns}})
    examples = Experiment(config).examples
    assert list(examples["train"]) == [Example("Why?", "So.")]
    assert list(examples["test"]) == read(TASKS["conciseness"].test)


def test_a_row_with_other_names_is_told_which_columns_to_set(tmp_path):
    file = write(tmp_path / "data.jsonl", {"question": "Why?", "answer": "So."})
    message = refusal(file)
    assert "'question', 'answer'" in message
    assert "--set task.columns.prompt=question --set task.columns.target=answer" in message
    shared = write(tmp_path / "chats.jsonl", {"conversations": [USER]})
    assert "--set task.columns.messages=conversations" in refusal(shared)
    assert read(shared, messages="conversations") == [Example("Why?")]


@pytest.mark.parametrize("key", ["prompt", "target", "messages"])
def test_a_column_that_no_row_has_is_an_error(tmp_path, key):
    file = write(tmp_path / "data.jsonl", GOOD, GOOD)
    message = refusal(file, **{key: "anwser"})
    assert f"task.columns.{key}" in message and "'anwser'" in message and "'prompt', 'target'" in message


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"messages": [USER]}, Example("Why?")),
        ({"messages": [SYSTEM, USER], "target": 4}, Example("Why?", 4, messages=(SYSTEM, USER))),
        ({"messages": [USER, ANSWER]}, Example("Why?", "So.")),
        ({"messages": [USER, ANSWER], "target": "No."}, Example("Why?", "No.")),
        (
            {"messages": [{"role": "user", "content": "Hi"}, ANSWER, USER], "id": 1},
            Example("Why?", None, {"id": 1}, messages=({"role": "user", "content": "Hi"}, ANSWER, USER)),
        ),
        ({"prompt": [SYSTEM, USER], "target": "x"}, Example("Why?", "x", messages=(SYSTEM, USER))),
        ({"prompt": "Other", "messages": [USER]}, Example("Why?", None, {"prompt": "Other"})),
        ({"prompt": "Why?", "messages": None, "target": None}, Example("Why?")),
        ({"messages": [USER | {"tool_calls": None}]}, Example("Why?")),
    ],
)
def test_chats_are_read(tmp_path, row, wanted):
    assert read(write(tmp_path / "data.jsonl", row)) == [wanted]


@pytest.mark.parametrize(
    ("messages", "about"),
    [
        ("Why?", "'messages' must be a list of turns"),
        ([], "'messages' must be a list of turns"),
        ({"role": "user"}, "'messages' must be a list of turns"),
        (["Why?"], "'messages', turn 1: must be an object with role and content"),
        ([{"from": "human", "value": "Why?"}], "'role' is missing; 'from', 'value' is there"),
        ([SYSTEM, {"role": "user"}], "turn 2: 'content' is missing"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "'content' must be text"),
        ([{"role": "human", "content": "Why?"}], "the role 'human' is none of system, developer, user"),
        (
            [SYSTEM],
            "must end with a user's turn, and at most one answer after it; the last one is of 'system'",
        ),
        ([ANSWER], "must end with a user's turn, and at most one answer after it; there is none"),
        ([USER, ANSWER, ANSWER], "the one before the answer is of 'assistant'"),
        ([{"role": "user", "content": " "}], "empty"),
        ([USER, {"role": "assistant", "content": ""}], "'target' is empty"),
    ],
)
def test_what_is_no_chat_is_named(tmp_path, messages, about):
    message = refusal(write(tmp_path / "data.jsonl", GOOD, {"messages": messages}))
    assert "line 2:" in message
    assert about in message


def test_the_system_prompt_stands_before_chats_that_have_none(tmp_path):
    file = write(tmp_path / "data.jsonl", GOOD, {"messages": [SYSTEM, USER]}, {"goal": 7, "numbers": [3, 4]})
    first, own, made = examples_of(file, Puzzle(), None, "Think.")
    think = {"role": "system", "content": "Think."}
    assert first == Example("a", "b", messages=(think, {"role": "user", "content": "a"}))
    assert own.messages == (SYSTEM, USER)
    assert made.messages == (think, {"role": "user", "content": "Reach 7."})
    assert made == Example("Reach 7.", 7, {"numbers": [3, 4]}, messages=made.messages)
    given = examples_of(
        [Example("p", "t"), Example("Why?", messages=[SYSTEM, USER])], Anything(), None, "Think."
    )
    assert [len(example.messages) for example in given] == [2, 2]
    assert given[0].messages[0] == think


def test_a_row_without_a_prompt_is_left_to_the_task(tmp_path):
    file = write(tmp_path / "data.jsonl", {"goal": 7, "numbers": [3, 4]}, {"prompt": "own"}, {"goal": 7})
    message = refusal(file, Puzzle())
    assert "line 3: the task's example() raised KeyError: 'numbers'" in message


@pytest.mark.parametrize(
    ("made", "about"),
    [
        (None, "'prompt' is missing"),
        ({"prompt": "a"}, "must make an Example of a row, not dict"),
        (Example(""), "prompt is"),
        (Example("a", {1, 2}), "'target' must be"),
        (UserError("train.jsonl, line 1: no"), "line 1: no"),
    ],
)
def test_what_a_task_makes_of_a_row_is_checked(tmp_path, made, about):
    class Odd(Anything):
        def example(self, row, where):
            if isinstance(made, Exception):
                raise made
            return made

    with pytest.raises(UserError) as error:
        examples_of(write(tmp_path / "train.jsonl", {"x": 1}), Odd())
    assert about in str(error.value) and "train.jsonl, line 1" in str(error.value)


def test_what_a_tasks_check_raises_is_named(tmp_path):
    class Even(Anything):
        def check_example(self, example):
            if example.target % 2:
                raise UserError(f"{example.where}: odd")

    file = write(tmp_path / "data.jsonl", {"prompt": "a", "target": 2}, {"prompt": "a", "target": 3})
    assert refusal(file, Even()).endswith("line 2: odd")
    file = write(tmp_path / "data.jsonl", GOOD)
    assert "line 1: the task's check_example() raised TypeError" in refusal(file, Even())


@pytest.mark.parametrize(
    ("data", "about"), [([], "no examples"), ([("a", "b")], "must be Examples, not tuple")]
)
def test_a_tasks_own_data_are_examples(data, about):
    with pytest.raises(UserError, match=about):
        examples_of(data, Anything())


ROWS = [
    GOOD,
    {"prompt": "Größe \U0001f600?", "target": "x", "level": 3, "tags": ["a", {"z": 1, "b": None}]},
    {"prompt": "no target"},
    {"prompt": "n", "target": 0, "x": 0.1},
    {"messages": [USER]},
    {"messages": [SYSTEM, USER, ANSWER]},
]


def test_examples_of_a_file_are_a_sequence_that_makes_them_when_read(tmp_path):
    file = write(tmp_path / "data.jsonl", *ROWS)
    examples = examples_of(file, Anything())
    assert len(examples) == len(ROWS)
    assert examples[-1] == list(examples)[5] and examples[1:3] == list(examples)[1:3]
    assert examples[-1].where == f"{file}, line 6"
    assert Example("n", 0, {"x": 0.1}) in examples
    with pytest.raises(IndexError):
        examples[6]


def test_the_fingerprint_is_that_of_the_examples_themselves(tmp_path):
    examples = examples_of(write(tmp_path / "data.jsonl", *ROWS), Anything())
    assert examples.fingerprint == fingerprint(examples) == fingerprint(list(examples))
    # as it has been since 0.2.0, for what there was then
    plain = examples_of(write(tmp_path / "plain.jsonl", *ROWS[:2]), Anything())
    text = (
        r'[{"prompt":"a","target":"b"},{"metadata":{"level":3,"tags":["a",{"b":null,"z":1}]},'
        r'"prompt":"Gr\u00f6\u00dfe \ud83d\ude00?","target":"x"}]'
    )
    assert plain.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_the_fingerprint_is_the_same_for_any_form_of_the_same_data(tmp_path):
    many = [{"prompt": f"What is {n}?", "target": str(n), "level": str(n % 3)} for n in range(2500)]
    jsonl = write(tmp_path / "data.jsonl", *many)
    array = tmp_path / "data.json"
    array.write_text(json.dumps(many))
    table = write(
        tmp_path / "data.csv",
        "level,target,prompt",
        *(f"{r['level']},{r['target']},{r['prompt']}" for r in many),
    )
    found = {examples_of(file, Anything()).fingerprint for file in (jsonl, array, table)}
    assert len(found) == 1
    assert found == {fingerprint([Example(r["prompt"], r["target"], {"level": r["level"]}) for r in many])}


def test_messages_change_the_fingerprint_only_if_they_say_more_than_the_prompt(tmp_path):
    plain = fingerprint([Example("Why?")])
    assert fingerprint([Example("Why?", messages=[USER])]) == plain
    assert fingerprint([Example("Why?", messages=[SYSTEM, USER])]) != plain
    file = write(tmp_path / "data.jsonl", {"prompt": "Why?"})
    assert examples_of(file, Anything()).fingerprint == plain
    assert examples_of(file, Anything(), None, "Be short.").fingerprint == fingerprint(
        [Example("Why?", messages=[SYSTEM, USER])]
    )


def test_metadata_that_json_has_no_form_for_are_one_line():
    with pytest.raises(UserError, match="cannot be compared between runs.*object"):
        fingerprint([Example("a", "b", {"x": object()})])


def test_the_longest_prompts_are_found_with_their_system_prompts(tmp_path):
    drawn = random.Random(0)
    rows = [{"prompt": "x" * drawn.randrange(1, 500)} for _ in range(300)]
    rows[7] = {"messages": [{"role": "system", "content": "s" * 600}, USER]}
    examples = examples_of(write(tmp_path / "data.jsonl", *rows), Anything())
    lengths = [sum(len(turn["content"]) for turn in example.messages) for example in examples]
    for known in (examples, list(examples)):
        numbers = longest_prompts(known, 10)
        assert numbers[0] == 7
        assert [lengths[n] for n in numbers] == sorted(lengths, reverse=True)[:10]
        assert len(set(numbers)) == 10
        shortest = shortest_prompts(known, 10)
        assert [lengths[n] for n in shortest] == sorted(lengths)[:10]
        assert len(set(shortest)) == 10
    for prompts in (longest_prompts, shortest_prompts):
        assert sorted(prompts(examples, 1000)) == list(range(300))


def test_no_example_is_kept_for_each_row(tmp_path):
    file = write(tmp_path / "data.jsonl", *({"prompt": f"p{n}", "target": f"t{n}"} for n in range(5000)))
    examples = examples_of(file, Anything())
    tracemalloc.start()
    try:
        for example in examples:
            assert example.target
        _ = examples.fingerprint
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000

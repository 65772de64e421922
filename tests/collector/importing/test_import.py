"""Existing logs into the lake: what rows become, what is refused, and that twice is once."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from collector.importing import read
from collector.importing.rows import Refused, Terms
from collector.importing.run import FORMATS, Report, run
from collector.ledger import ledger
from everlearn.cli import group
from everlearn.config import Service
from everlearn.errors import InputError
from everlearn.events import Completion
from everlearn.lake.ducklake import DuckLake, open_lake

ASKED = {"role": "user", "content": "Where is my parcel?"}
SAID = {"role": "assistant", "content": "On its way."}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(data_dir=tmp_path / "data")


@pytest.fixture
def lake(service: Service) -> Iterator[DuckLake]:
    lake = open_lake(service)
    yield lake
    lake.close()


def lines(tmp_path: Path, *rows: Any, name: str = "log.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bring(
    lake: DuckLake, path: Path, format_name: str = "openai", **terms: Any
) -> tuple[Report, list[dict[str, Any]]]:
    report = run(lake, path, Terms(format_name, "support", **terms))
    return report, list(lake.read("SELECT * FROM completions ORDER BY seq").to_pylist())


def ratings(lake: DuckLake) -> list[dict[str, Any]]:
    return list(lake.read("SELECT * FROM feedback_joined ORDER BY seq").to_pylist())


def test_a_fine_tuning_row_becomes_a_completion(lake: DuckLake, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be kind."}, ASKED, SAID]
    row = {"messages": messages, "tools": [TOOL]}
    report, found = bring(lake, lines(tmp_path, row))
    assert (report.rows, report.completions, report.refused) == (1, 1, 0)
    (only,) = found
    assert json.loads(only["messages"]) == messages[:-1]
    assert only["response_text"] == "On its way."
    assert (only["status"], only["task"], only["version"], only["arm"], only["release"]) == (
        *("imported", "support"), None, None, None,
    )  # fmt: skip
    assert json.loads(only["raw_request"])["tools"] == [TOOL]


def test_the_same_file_twice_gives_the_same_rows(
    lake: DuckLake, tmp_path: Path, service: Service
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, SAID], "feedback": {"value": "up"}}
        for n in range(50)
    ]
    path = lines(tmp_path, *rows)
    _, before = bring(lake, path)
    report, after = bring(lake, path)
    assert (report.completions, report.feedback, report.repeated) == (0, 0, 100)
    assert after == before
    # Grown and in another order: only what is new comes.
    report, grown = bring(lake, lines(tmp_path, {"messages": [ASKED, SAID]}, *rows[::-1]))
    assert (report.completions, report.repeated) == (1, 100)
    assert len({row["completion_id"] for row in grown}) == len(grown) == 51
    (account,) = ledger(service, lake)
    assert (account.gateway_id, account.stored, account.missing, account.duplicates) == (
        *("import", 101, 0, 0),
    )


def test_a_row_twice_in_one_file_counts_once(lake: DuckLake, tmp_path: Path) -> None:
    report, found = bring(lake, lines(tmp_path, *[{"messages": [ASKED, SAID]}] * 3))
    assert (report.completions, report.repeated, len(found)) == (1, 2, 1)


def test_logged_calls_keep_what_was_said_of_them(lake: DuckLake, tmp_path: Path) -> None:
    request = {"model": "gpt-x", "messages": [ASKED], "temperature": 0.3, "user": "ann"}
    response = {
        "id": "chatcmpl-1", "model": "gpt-x-2026", "created": 1_700_000_000,
        "choices": [{"index": 0, "message": SAID, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4},
    }  # fmt: skip
    batch = {"custom_id": "b1", "request": {"body": request}, "response": {"body": response}}
    stored = {**response, "id": "chatcmpl-2", "messages": [ASKED], "store": False}
    plain = {"request": request, "response": response, "conversation_id": "c9"}
    _, found = bring(lake, lines(tmp_path, plain, batch, stored), consent=True)
    assert [row["upstream_id"] for row in found] == ["chatcmpl-1", "b1", "chatcmpl-2"]
    first = found[0]
    assert (first["model_served"], first["unit"], first["conversation_id"]) == (
        *("gpt-x", "ann", "c9"),
    )
    assert (first["prompt_tokens"], first["finish_reason"]) == (7, "length")
    assert first["received_at"].timestamp() == 1_700_000_000
    assert json.loads(first["sampling"])["temperature"] == 0.3
    # Cut short, cut short, and held back by its caller: none is an answer to learn.
    assert [row["trainable"] for row in found] == [False, False, False]
    assert [row["status"] for row in found] == ["imported"] * 3


def test_nobody_is_taught_without_consent(lake: DuckLake, tmp_path: Path) -> None:
    quiet = {"messages": [{**ASKED, "content": "x"}, {**SAID, "weight": 0}]}
    path = lines(tmp_path, {"messages": [ASKED, SAID]}, quiet)
    _, found = bring(lake, path)
    assert [row["trainable"] for row in found] == [False, False]


def test_consent_teaches_all_but_what_the_row_itself_holds_back(
    lake: DuckLake, tmp_path: Path
) -> None:
    quiet = {"messages": [{**ASKED, "content": "x"}, {**SAID, "weight": 0}]}
    _, found = bring(lake, lines(tmp_path, {"messages": [ASKED, SAID]}, quiet), consent=True)
    assert [row["trainable"] for row in found] == [True, False]


def test_ratings_in_a_row_join_its_completion(lake: DuckLake, tmp_path: Path) -> None:
    given = [
        {"value": "down"},
        {"name": "stars", "value": 4, "author_id": "ann"},
        {"kind": "correction", "value": "Tomorrow.", "author": "expert"},
        {"name": "tone", "value": "rude", "comment": "really", "author": "judge"},
    ]
    _, (row,) = bring(lake, lines(tmp_path, {"messages": [ASKED, SAID], "feedback": given}))
    found = ratings(lake)
    assert {each["completion_id"] for each in found} == {row["completion_id"]}
    kinds = [(r["kind"], r["value_bool"], r["value_number"], r["value_text"]) for r in found]
    assert kinds == [
        ("binary", False, None, None),
        ("scalar", None, 4.0, None),
        ("correction", None, None, "Tomorrow."),
        ("label", None, None, "rude"),
    ]
    assert [each["author"] for each in found] == ["end_user", "end_user", "expert", "judge"]


def test_a_preference_is_two_answers_and_which_was_liked(lake: DuckLake, tmp_path: Path) -> None:
    row = {
        "input": {"messages": [ASKED], "tools": [TOOL]},
        "preferred_output": [SAID],
        "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
    }
    _, found = bring(lake, lines(tmp_path, row))
    liked, other = found
    assert [liked["response_text"], other["response_text"]] == ["On its way.", "No idea."]
    (preference,) = lake.read("SELECT * FROM feedback").to_pylist()
    assert preference["kind"] == "preference"
    assert preference["completion_id"] == liked["completion_id"]
    assert preference["other_completion_id"] == other["completion_id"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASKED]}, "there is no answer: the last message is not the assistant's"),
        ({"messages": [ASKED, {**SAID, "content": ""}]}, "the assistant message is empty"),
        ({"messages": []}, "there are no `messages`"),
        ({"messages": [SAID]}, "there is no question"),
        ({"messages": ["hello", SAID]}, "messages[0] has no role"),
        ({"request": {"messages": [ASKED]}, "response": {"error": {"code": 429}}}, "call failed"),
        ({"request": {"messages": [ASKED]}, "response": {"choices": []}}, "there is no answer"),
        ({"prompt": "hi"}, "neither `completion` nor `response`"),
        ({"messages": [ASKED, SAID], "feedback": {"name": "stars", "kind": "scalar"}}, "a scalar"),
        ({"messages": [ASKED, SAID], "feedback": {"value": 1, "author": "boss"}}, "author 'boss'"),
        ({"messages": [ASKED, SAID], "created": "yesterday"}, "'yesterday' is no time"),
        ({"messages": [ASKED, SAID], "feedback": ["good"]}, "an object or a list of objects"),
        ({"messages": {"role": "user"}, "tools": 3}, "there are no `messages`"),
    ],
)
def test_a_row_that_cannot_be_taken_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=re.escape(reason)):
        FORMATS["openai"](row, Terms("openai"))


def test_a_refused_row_stops_nobody(lake: DuckLake, tmp_path: Path) -> None:
    good = {"messages": [ASKED, SAID]}
    rows = (good, {"messages": [ASKED]}, [1, 2], {"messages": {}, "tools": 3}, {**good, "id": "b"})
    report, found = bring(lake, lines(tmp_path, *rows))
    assert len(found) == report.completions == 2
    assert report.refused == 3
    assert [number for number, _ in report.reasons] == [2, 3, 4]
    assert "not a JSON object" in report.reasons[1][1]


def test_what_other_programs_write_into_json_is_read(tmp_path: Path) -> None:
    mark, path = b"\xef\xbb\xbf", tmp_path / "log.jsonl"
    written = {
        mark + b'{"a": 1}\r\n{"a": 2}\r\n': [1, 2],
        mark + b'[{"a": 1}, {"a": 2}]': [1, 2],
        b'{"a": NaN}\n{"a": 1e999}\n{"a": "\\ud83d"}\n{"a": "\xff"}\n': [
            None,
            None,
            "\ufffd",
            "\ufffd",
        ],
    }
    for data, found in written.items():
        path.write_bytes(data)
        assert [row.content and row.content["a"] for row in read.rows(path)] == found


def test_broken_lines_are_named_by_their_number(lake: DuckLake, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = json.dumps({"messages": [ASKED, SAID]}).encode()
    path.write_bytes(b"\n" + good + b"\n{half\n\xff\xfe\n\n" + b"[" * 5000 + b"\n")
    report, found = bring(lake, path)
    assert len(found) == 1
    assert [number for number, _ in report.reasons] == [3, 4, 6]


LANGFUSE = {
    "id": "obs-1", "trace_id": "tr-1", "type": "GENERATION", 
    "start_time": "2026-05-29 13:46:19.963",
    "end_time": "2026-05-29 13:46:20.463", "provided_model_name": "gpt-x", "user_id": "ann",
    "session_id": "s-1", "usage_details": {"input": 9, "output": 3},
    "model_parameters": '{"temperature": 0.2}',
    "input": json.dumps({"messages": [ASKED], "tools": [TOOL]}), "output": json.dumps(SAID),
}  # fmt: skip


def camel(row: dict[str, Any]) -> dict[str, Any]:
    def name(key: str) -> str:
        first, *rest = key.split("_")
        return first + "".join(part.title() for part in rest)

    return {name(key): value for key, value in row.items()}


@pytest.mark.parametrize("form", ["export", "api", "trace", "list"])
def test_langfuse_generations_and_scores(lake: DuckLake, tmp_path: Path, form: str) -> None:
    on = {"observation_id": "obs-1", "trace_id": "tr-1"}
    about = {"data_type": "BOOLEAN", "source": "API", "timestamp": "2026-05-29 14:00:00"}
    scores = [
        {**about, **on, "id": "s1", "name": "ok", "value": 1},
        {**about, "id": "s2", "trace_id": "tr-1", "name": "q", "value": 0.5,
         "data_type": "NUMERIC"},
        {**about, "id": "s3", "session_id": "s-1", "name": "tone", "string_value": "calm",
         "data_type": "CATEGORICAL", "source": "ANNOTATION"},
        {**about, "id": "s4", "observation_id": "obs-1", "name": "output", "source": "ANNOTATION",
         "string_value": "Tomorrow.", "data_type": "CORRECTION"},
    ]  # fmt: skip
    span = {**LANGFUSE, "id": "sp", "type": "SPAN"}
    rows: list[Any] = [LANGFUSE, span, *scores]
    if form == "api":
        rows = [camel({**row, "input": json.loads(row["input"])} if "input" in row else row)
                for row in rows]  # fmt: skip
    if form == "trace":
        rows = [{"id": "tr-1", "observations": [LANGFUSE, span], "scores": scores, "name": "chat"}]
    path = lines(tmp_path, *rows)
    if form == "list":
        path.write_text(json.dumps({"data": rows, "meta": {"page": 1}}, indent=1))
    report, (row,) = bring(lake, path, "langfuse")
    assert (report.skipped, report.refused) == (0 if form == "trace" else 1, 0), report.reasons
    assert json.loads(row["messages"]) == [ASKED]
    assert row["response_text"] == "On its way."
    assert (row["unit"], row["conversation_id"], row["request_id"]) == ("ann", "s-1", "tr-1")
    assert (row["model_served"], row["latency_ms"], row["prompt_tokens"]) == ("gpt-x", 500.0, 9)
    found = {each["name"]: each for each in ratings(lake)}
    assert set(found) == {"ok", "q", "tone", "output"}
    assert {each["completion_id"] for each in found.values()} == {row["completion_id"]}
    assert found["ok"]["value_bool"] is True
    assert found["q"]["value_number"] == 0.5
    assert (found["tone"]["value_text"], found["tone"]["author"]) == ("calm", "expert")
    assert found["output"]["kind"] == "correction"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output": None, "status_message": "429"}, "there is no answer: `output` is empty 429"),
        ({"input": None}, "there is no question"),
        ({"id": None}, "the row has no `id`"),
    ],
)
def test_langfuse_rows_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=re.escape(reason)):
        FORMATS["langfuse"]({**LANGFUSE, **changes}, Terms("langfuse"))


@pytest.mark.parametrize(
    ("asked", "answered", "text"),
    [
        ("Where?", "There.", "There."),
        ([ASKED], {"choices": [{"message": SAID}]}, "On its way."),
        (ASKED, {"queue": "amber"}, '{"queue": "amber"}'),
        ([ASKED], [SAID], "On its way."),
    ],
)
def test_langfuse_inputs_and_outputs_in_the_shapes_people_log(
    asked: Any, answered: Any, text: str
) -> None:
    row = {**LANGFUSE, "input": asked, "output": answered}
    (made,) = FORMATS["langfuse"](row, Terms("langfuse"))
    assert isinstance(made, Completion)
    message = json.loads(made.response)["choices"][0]["message"]
    assert message == {"role": "assistant", "content": text}
    assert json.loads(made.request)["messages"][0]["role"] == "user"


INFERENCE = {
    "inference_id": "0196-aa", "episode_id": "0196-ee", "type": "chat", "variant_name": "gpt",
    "function_name": "support", "timestamp": "2026-05-29T13:46:19Z", "tags": {"user_id": "ann"},
    "processing_time_ms": 120, "inference_params": {"chat_completion": {"temperature": 0.1}},
    "input": {
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": [
                {"type": "tool_call", "id": "c1", "name": "track", "arguments": '{"id": 7}'}]},
            {"role": "user", "content": [
                {"type": "tool_result", "id": "c1", "name": "track", "result": "Lyon"}]},
        ],
    },
    "output": [{"type": "thought", "text": "Hm."}, {"type": "text", "text": "In Lyon."}],
}  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
def test_tensorzero_inferences_and_feedback(lake: DuckLake, tmp_path: Path, as_text: bool) -> None:
    row = INFERENCE
    if as_text:
        row = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
    liked = {"id": "f1", "target_id": "0196-aa", "metric_name": "ok", "value": True}
    better = {"id": "f2", "inference_id": "0196-aa", "value": '[{"type": "text", "text": "Rome."}]'}
    said = {"id": "f3", "target_id": "0196-ee", "target_type": "episode", "value": "fine"}
    path = lines(tmp_path, liked, row, better, said)
    report, (found,) = bring(lake, path, "tensorzero")
    assert report.refused == 0, report.reasons
    roles = [message["role"] for message in json.loads(found["messages"])]
    assert roles == ["system", "user", "assistant", "tool"]
    call = json.loads(found["messages"])[2]["tool_calls"][0]["function"]
    assert call == {"name": "track", "arguments": '{"id": 7}'}
    assert found["response_text"] == "In Lyon."
    assert json.loads(found["raw_response"])["choices"][0]["message"]["reasoning"] == "Hm."
    assert (found["unit"], found["conversation_id"]) == ("ann", "0196-ee")
    by_name = {each["name"]: each for each in ratings(lake)}
    assert {each["completion_id"] for each in by_name.values()} == {found["completion_id"]}
    assert by_name["ok"]["value_bool"] is True
    assert by_name["demonstration"]["value_text"] == "Rome."
    assert by_name["comment"]["kind"] == "comment"


def test_tensorzero_json_functions_and_calls(lake: DuckLake, tmp_path: Path) -> None:
    call = {"type": "tool_call", "id": "c", "name": "track", "arguments": {"id": 7}}
    report, found = bring(
        lake,
        lines(
            tmp_path,
            {**INFERENCE, "output": {"raw": '{"a":1}', "parsed": {"a": 1}}},
            {**INFERENCE, "inference_id": "0196-bb", "output": [call]},
            {**INFERENCE, "inference_id": "0196-cc", "output": []},
        ),
        "tensorzero",
    )
    assert found[0]["response_text"] == '{"a":1}'
    message = json.loads(found[1]["raw_response"])["choices"][0]["message"]
    assert message["tool_calls"][0]["function"] == {"name": "track", "arguments": '{"id": 7}'}
    assert report.reasons == [(3, "there is no answer: `output` is empty")]


def test_parquet_with_nested_or_textual_messages(lake: DuckLake, tmp_path: Path) -> None:
    nested = pa.table({"messages": [[ASKED, SAID]], "feedback": [[{"value": 1.0, "name": "q"}]]})
    textual = pa.table({"prompt": ["Where?", "When?"], "response": ["There.", None]})
    messages = pa.table({"messages": [json.dumps([ASKED])], "answer": ["Here."], "id": ["7"]})
    texts = []
    for number, table in enumerate((nested, textual, messages)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path)
        report, found = bring(lake, path, "parquet")
        texts.append((found[-1]["response_text"], report.refused))
    assert texts == [("On its way.", 0), ("There.", 1), ("Here.", 0)]
    assert ratings(lake)[0]["value_number"] == 1.0


def test_a_file_that_is_no_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "half.parquet"
    path.write_bytes(b"PAR1" + b"x" * 100)
    result = CliRunner().invoke(
        group, ["import", str(path), "--format", "parquet", "--config", config(tmp_path)]
    )
    assert result.exit_code != 0
    assert "half.parquet cannot be read" in str(result.exception)


def config(tmp_path: Path) -> str:
    path = tmp_path / "everlearn.yaml"
    path.write_text(f"data_dir: {tmp_path / 'data'}\ntasks_dir: {tmp_path}/tasks\n")
    return str(path)


def test_the_command_reports_what_was_taken_and_what_was_not(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    rows = [{"messages": [ASKED, SAID]}, {"messages": [ASKED]}]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    words = ["import", str(path), "--format", "openai", "--config", config(tmp_path)]
    result = CliRunner().invoke(group, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 rows: 1 conversations and 0 ratings imported, 0 known already" in result.output
    assert "  row 2: there is no answer" in result.output
    again = json.loads(CliRunner().invoke(group, [*words, "--json"]).output)
    assert (again["completions"], again["repeated"], again["refused"]) == (0, 1, 1)


def test_the_command_says_no_when_nothing_could_be_taken(tmp_path: Path) -> None:
    path = lines(tmp_path, {"messages": [ASKED]})
    words = ["import", str(path), "--format", "openai", "--config", config(tmp_path)]
    assert CliRunner().invoke(group, words).exit_code == 1


def test_an_unknown_task_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = lines(tmp_path, {"messages": [ASKED, SAID]})
    words = ["import", str(path), "--format", "openai", "--task", "nobody"]
    result = CliRunner().invoke(group, [*words, "--config", config(tmp_path)])
    assert "task 'nobody' does not exist" in str(result.exception)
    assert not (tmp_path / "data" / "lake").exists()


def test_what_is_no_parquet_file_is_refused_as_a_whole(lake: DuckLake, tmp_path: Path) -> None:
    path = lines(tmp_path, {"messages": [ASKED, SAID]})
    with pytest.raises(InputError, match="is no Parquet file; of JSON --format says who wrote it"):
        bring(lake, path, "parquet")

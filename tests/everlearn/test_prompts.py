"""What makes two prompts the same, and the border that no row crosses."""

import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from everlearn.events import decode, encode
from everlearn.ids import completion_id, may_be_of, new_id
from everlearn.opinion import fold
from everlearn.prompts import is_heldout, last_user_text, prompt_key, side_of
from tests.builders import make_completion, make_feedback


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_case_and_white_space_do_not_make_another_prompt() -> None:
    assert prompt_key(ask("How many\n orders? ")) == prompt_key(ask("how many orders?"))
    assert prompt_key(ask("how many orders?")) != prompt_key(ask("how many order?"))


def test_an_accent_may_be_written_as_one_character_or_two() -> None:
    for one, two in (("caf\u00e9 \uac00?", "CAFE\u0301\u00a0\u1100\u1161?"), ("\u00e5", "a\u030a")):
        assert prompt_key(ask(one)) == prompt_key(ask(two))
    assert prompt_key(ask("cafe")) != prompt_key(ask("caf\u00e9"))
    assert fold(" caf\u00e9\n") == fold("cafe\u0301")


def test_text_parts_are_the_same_prompt_as_a_string() -> None:
    parts: list[Any] = [{"type": "text", "text": "how many "}, {"type": "text", "text": "orders?"}]
    assert prompt_key([{"role": "user", "content": parts}]) == prompt_key(ask("how many orders?"))


def test_who_said_it_counts() -> None:
    assert prompt_key([{"role": "system", "content": "a"}]) != prompt_key(ask("a"))


def test_the_key_of_a_plain_conversation_stays_for_ever() -> None:
    talk = [{"role": "system", "content": "Be  kind."}, *ask("How many\n orders?")]
    assert prompt_key(talk) == "8c38b014a24b076b52a9253657a517ae"


def picture(name: str, text: str = "which animal?") -> list[dict[str, Any]]:
    shown = {"type": "image_url", "image_url": {"url": f"https://pics.example/{name}"}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, shown]}]


def called(city: str, result: str, name: str = "c1") -> list[dict[str, Any]]:
    call = {"name": "weather", "arguments": f'{{"city": "{city}"}}'}
    calls = [{"id": name, "type": "function", "function": call}]
    return [
        *ask("how warm?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": name, "content": result},
    ]


TOOL = {"type": "function", "function": {"name": "weather"}}


def test_whatever_the_model_saw_makes_another_prompt() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}
    picture_first = [{"role": "user", "content": picture("cat")[0]["content"][::-1]}]
    different: list[tuple[Any, Any]] = [
        (ask("which animal?"), None), (picture("cat"), None), (picture("dog"), None),
        (picture_first, None), ([{"role": "user", "content": [sound]}], None),
        (ask(""), None), ([{"role": "user", "content": [1, 2]}], None),
        ([{"role": "user", "content": [3, 4]}], None), (called("Turin", "18"), None),
        (called("Oslo", "18"), None), (called("Turin", "-3"), None), (called("turin", "18"), None),
        (ask("which animal?"), [TOOL]), (ask("which animal?"), [TOOL, TOOL]),
        ([{"role": "user", "content": "which animal?", "name": "ann"}], None),
        ([{"type": "function_call_output", "call_id": "c", "output": "18"}], None),
        ([{"type": "function_call_output", "call_id": "c", "output": "-3"}], None),
        ([*ask("a"), *ask("b")], None), (ask("a\x1e user\x1fb"), None), ("hello", None),
        ([None], None), ({"role": "assistant"}, None), ([], None),
    ]  # fmt: skip
    assert len({prompt_key(*each) for each in different}) == len(different)


def test_what_no_model_is_shown_makes_no_other_prompt() -> None:
    assert prompt_key(called("Turin", "18")) == prompt_key(called("Turin", "18", name="c9"))
    spaced = called("Turin", "18")
    spaced[1]["tool_calls"][0]["function"]["arguments"] = '{ "city":"Turin" }'
    assert prompt_key(called("Turin", "18")) == prompt_key(spaced)
    cached = [{**ask("a")[0], "cache_control": {"type": "ephemeral"}, "annotations": []}]
    assert prompt_key(cached) == prompt_key(ask("a"))
    assert prompt_key(ask("a"), []) == prompt_key(ask("a"), None) == prompt_key(ask("a"))


def test_which_result_belongs_to_which_call_counts() -> None:
    def results(*names: str) -> list[dict[str, Any]]:
        calls = [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in ("x", "y")]
        answers = [{"role": "tool", "tool_call_id": name, "content": "1"} for name in names]
        return [{"role": "assistant", "tool_calls": calls}, *answers]

    assert prompt_key(results("x", "y")) != prompt_key(results("y", "x"))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "id", "x"]), inner)
    ),
    max_leaves=12,
)


@given(JSON, JSON)
def test_any_json_has_a_key_and_a_last_user_text(messages: Any, tools: Any) -> None:
    assert prompt_key(messages, tools) == prompt_key(messages, tools)
    assert isinstance(last_user_text(messages), str)


def test_half_an_emoji_has_a_key() -> None:
    assert prompt_key(ask("a\ud83d")) != prompt_key(ask("a"))


def test_the_last_user_text_skips_the_answer() -> None:
    talk = [*ask("first"), {"role": "assistant", "content": "yes"}, *ask("second")]
    assert last_user_text([*talk, {"role": "assistant", "content": "no"}]) == "second"
    assert last_user_text([]) == ""


@given(st.text(max_size=30), st.floats(1, 98), st.floats(0, 1))
def test_who_is_held_out_stays_held_out_when_the_share_grows(
    unit: str, percent: float, more: float
) -> None:
    if is_heldout(unit, percent, "salt"):
        assert is_heldout(unit, percent + more, "salt")
        before, after = (
            side_of(unit, heldout_percent=each, salt="salt") for each in (percent, percent + more)
        )
        assert before == after


def test_the_held_out_share_is_as_asked() -> None:
    sides = [side_of(f"user-{number}", heldout_percent=20, salt="salt") for number in range(10_000)]
    # Five standard deviations of a binomial of 10,000 at 20 %, and at 10 %.
    assert abs(sides.count("select") + sides.count("gate") - 2000) < 200
    assert abs(sides.count("gate") - 1000) < 150


def test_who_does_not_know_the_salt_does_not_know_the_side() -> None:
    units = [f"user-{number}" for number in range(10_000)]
    chosen = [unit for unit in units if is_heldout(unit, 20, "guessed")]
    held = sum(is_heldout(unit, 20, "of the installation") for unit in chosen)
    # Chosen by a guessed salt, no more of them are held out than of any.
    assert abs(held / len(chosen) - 0.2) < 0.05


def test_half_an_emoji_in_a_unit_has_a_side() -> None:
    assert side_of("user-\ud83d", heldout_percent=20, salt="s") in ("train", "select", "gate")


def test_events_come_back_as_they_were() -> None:
    for event in (make_completion(stream=True), make_feedback(tags={"a": "b"})):
        assert decode(encode(event)) == event


def test_identifiers_sort_by_time_and_differ() -> None:
    made = [new_id("cmpl") for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [name[:14] for name in made] == sorted(name[:14] for name in made)


def test_a_completions_id_tells_its_task_to_every_process_and_any_other_id_tells_none() -> None:
    tasks = [None, *(f"task-{number}" for number in range(50))]
    ids = {task: completion_id(task) for task in tasks}
    for task, name in ids.items():
        assert [other for other in tasks[1:] if other and may_be_of(name, [other])] == (
            [task] if task else []
        )
        assert may_be_of(name, [other for other in tasks if other]) == (task is not None)
    code = "from everlearn.ids import completion_id as new; print(new('task-7'), new(None))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    of_it, of_none = elsewhere.split()
    assert may_be_of(of_it, ["task-7"])
    assert not may_be_of(of_it, ["task-8"])
    assert not may_be_of(of_none, ["task-7"])
    # Made before ids were marked, an upstream's, a caller's.
    for name in (new_id("cmpl"), f"chatcmpl-{ids[None]}", f"{ids[None]}x", "1", ""):
        assert may_be_of(name, ["task-7"])

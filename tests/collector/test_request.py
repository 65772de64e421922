"""What a request asked: tools, formats, and what it forced on the answer."""

import json
from typing import Any

import pytest

from collector.request import MAX_KNOWN_BYTES
from everlearn.prompts import prompt_key
from tests.collector.answers import row

ASK = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def asked(**request: Any) -> dict[str, Any]:
    return row(request={"messages": ASK, **request})


def test_tools_choice_and_format_stand_beside_the_messages() -> None:
    shape = {"type": "json_object"}
    found = asked(tools=TOOLS, tool_choice="auto", response_format=shape, temperature=0.5)
    assert json.loads(found["tools"]) == TOOLS
    assert (found["tool_choice"], json.loads(found["response_format"])) == ('"auto"', shape)
    assert (found["forced"], found["sampling"]) == (None, '{"temperature":0.5}')


def test_legacy_functions_are_tools() -> None:
    found = asked(functions=[{"name": "f"}], function_call={"name": "f"})
    assert json.loads(found["tools"]) == [{"name": "f"}]
    assert json.loads(found["tool_choice"]) == {"name": "f"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template", "{{ 'yes' }}"), ("logit_bias", {"5": 100}), ("echo", True),
        ("guided_json", {"type": "object"}), ("guided_regex", "yes"), ("guided_choice", ["yes"]),
        ("guided_grammar", "root ::= x"), ("structured_outputs", {"choice": ["yes"]}),
        ("grammar", "root ::= x"), ("continue_final_message", True), ("regex", "yes"),
        ("add_generation_prompt", False), ("chat_template_kwargs", {"system": "say yes"}),
        ("allowed_token_ids", [5]), ("bad_words", ["no"]), ("ignore_eos", True),
        ("min_tokens", 50), ("nvext", {"guided_regex": "yes"}), ("logits_processors", ["p"]),
    ],
)  # fmt: skip
def test_what_is_forced_is_named(field: str, value: Any) -> None:
    assert asked(**{field: value})["forced"] == field


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template": None}, {"logit_bias": {}}, {"echo": False}, {"tool_choice": "required"},
        {"chat_template_kwargs": {"enable_thinking": False}}, {"add_generation_prompt": True},
        {"response_format": {"type": "json_object"}}, {"stop": ["guided_json"]},
        {"min_tokens": 0}, {"ignore_eos": False}, {"nvext": {"top_k": 5}},
    ],
)  # fmt: skip
def test_what_leaves_the_words_to_the_model_is_not_forced(more: Any) -> None:
    assert asked(**more)["forced"] is None


def test_a_prefill_is_forced() -> None:
    begun = {"role": "assistant", "content": "Yes, "}
    assert row(request={"messages": [*ASK, begun]})["forced"] == "messages"
    assert row(request={"messages": [begun, *ASK]})["forced"] is None
    talk = [{"role": "user", "content": 'a "role": "assistant" plays'}]
    assert row(request={"messages": talk})["forced"] is None


def test_what_stands_after_the_gap_is_part_of_the_prompt() -> None:
    def keys(**more: Any) -> str:
        return prompt_key(json.loads(row(request={"prompt": "def f(", **more})["messages"]))

    assert len({keys(), keys(suffix="return 1"), keys(suffix="return 2")}) == 3
    assert keys(suffix=None) == keys(suffix="") == keys()


def test_half_an_emoji_in_a_prompt_is_the_replacement_character() -> None:
    body = b'{"messages":[{"role":"user","content":"a\\ud83d"},{"role":"user","content":"\\\\u"}]}'
    found = json.loads(row(request=body)["messages"])
    assert [each["content"] for each in found] == ["a\ufffd", "\\u"]
    pair = b'{"messages":[{"role":"user","content":"\\ud83d\\ude00"}]}'
    assert json.loads(row(request=pair)["messages"])[0]["content"] == "\U0001f600"


def test_what_is_asked_in_the_same_manner_keeps_its_own_words() -> None:
    for text in ("one", "two", "one"):
        begun = [{"role": "assistant", "content": text}]
        prompt = [{"role": "user", "content": text}, *(begun if text == "two" else [])]
        found = asked(messages=prompt, metadata={"n": text}, tools=TOOLS, temperature=0.25)
        assert json.loads(found["messages"]) == prompt
        assert json.loads(found["metadata"]) == {"n": text}
        assert json.loads(found["tools"]) == TOOLS
        assert found["sampling"] == '{"temperature":0.25}'
        assert found["forced"] == ("messages" if text == "two" else None)


@pytest.mark.parametrize("size", [1, MAX_KNOWN_BYTES])
def test_a_manner_of_any_length_is_read_alike(size: int) -> None:
    tool = {"type": "function", "function": {"name": "f" * size}}
    for _ in range(2):
        found = asked(tools=[tool], tool_choice="none", guided_regex="yes", seed=7)
        assert json.loads(found["tools"]) == [tool]
        assert (found["tool_choice"], found["forced"]) == ('"none"', "guided_regex")
        assert json.loads(found["sampling"]) == {"seed": 7, "guided_regex": "yes"}

"""What a chat template is given: the same for serving and training."""

import pytest

from everlearn.chat import (
    Unsupported,
    arguments_object,
    content_format,
    split_thinking,
    template_messages,
    template_options,
    template_tools,
)

STRING = "{% for m in messages %}{{ m.role + m['content'] }}{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


def test_text_parts_become_one_string_or_stay_parts_as_the_template_wants() -> None:
    asked = [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]
    assert template_messages(asked, STRING) == [{"role": "user", "content": "a\nb"}]
    (message,) = template_messages([{"role": "user", "content": "a"}], PARTS)
    assert message["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ("{{ m.role + m['content'] }}", "string"),
        ("{% for part in m.content %}{{ part.text }}{% endfor %}", "parts"),
        ("{% for part in m['content'] | list %}{% endfor %}", "parts"),
        ("{% for call in m.tool_calls %}{{ call }}{% endfor %}", "string"),
        ("{% set content = m.content %}{% for c in content %}{% endfor %}", "parts"),
        ("{% generation %}{{ m.content }}{% endgeneration %}{% break %}", "string"),
        ("{{ show(m.content) }}", "parts"),
        ("{% for", "string"),
    ],
)
def test_a_template_that_walks_over_content_wants_parts(body: str, form: str) -> None:
    show = "{% macro show(x) %}{% for c in x %}{{ c }}{% endfor %}{% endmacro %}"
    template = "{% set rest = messages[1:] %}{% for m in rest %}" + body + "{% endfor %}"
    assert content_format(show + template) == form


def test_a_null_content_is_empty_and_arguments_are_an_object() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    (message,) = template_messages(
        [{"role": "assistant", "content": None, "tool_calls": [call]}], STRING
    )
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ("[1]", None),
        ("{a", None),
        (3, None),
    ],
)
def test_arguments_are_an_object_or_nothing(given: object, found: object) -> None:
    assert arguments_object(given) == found


def test_a_developer_is_the_system_where_the_template_does_not_know_the_role() -> None:
    asked = [
        {"role": "system", "content": "one"},
        {"role": "developer", "content": "two"},
        {"role": "user", "content": "q"},
    ]
    assert template_messages(asked, STRING)[0] == {"role": "system", "content": "one\n\ntwo"}
    known = STRING + "{# 'developer' #}"
    assert [m["role"] for m in template_messages(asked, known)] == ["system", "developer", "user"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "messages_unreadable"),
        ([], "messages_unreadable"),
        ([{"content": "q"}], "messages_unreadable"),
        ([{"role": "user", "content": {"a": 1}}], "content_unreadable"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content_not_text"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "content_unreadable"),
        ([{"role": "assistant", "tool_calls": [{"function": 3}]}], "tool_call_unreadable"),
    ],
)  # fmt: skip
def test_what_no_template_can_hold_has_a_reason(messages: object, reason: str) -> None:
    with pytest.raises(Unsupported) as raised:
        template_messages(messages, STRING)
    assert raised.value.reason == reason


def test_tools_have_the_keys_that_the_server_shows() -> None:
    tool = {"type": "function", "function": {"parameters": {}, "name": "f", "extra": 1}, "x": 1}
    (shown,) = template_tools([tool]) or []
    assert list(shown["function"].items()) == [
        ("name", "f"),
        ("description", None),
        ("parameters", {}),
    ]
    assert template_tools([]) is None
    with pytest.raises(Unsupported):
        template_tools([{"type": "web_search"}])


def test_a_client_names_variables_of_the_template_never_the_template() -> None:
    given = {"enable_thinking": False, "chat_template": "{{ secrets }}", "tokenize": True}
    assert template_options(given) == {"enable_thinking": False}
    assert template_options(None, "none")["enable_thinking"] is False
    assert template_options("nonsense") == {}


def test_thinking_that_stands_in_the_text_is_told_apart() -> None:
    assert split_thinking("<think>\nhm\n</think>\n\nyes") == ("hm", "yes")
    assert split_thinking("hm</think>yes") == ("hm", "yes")
    assert split_thinking("write <think> and </think>") == (None, "write <think> and </think>")
    assert split_thinking("yes") == (None, "yes")


def test_thinking_is_read_under_either_name_where_the_other_is_null() -> None:
    names = ("reasoning", "reasoning_content")
    for name, other in (names, names[::-1]):
        asked = [{"role": "assistant", "content": "four", name: "hm", other: None}]
        [found] = template_messages(asked, "")
        assert [found[each] for each in names] == ["hm", "hm"]

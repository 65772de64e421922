"""What is trained on is what the server renders and the model samples, or refused with a reason."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from everlearn.chat import THINKING, Unsupported
from tests.trainer.templates import (
    ANSWER,
    CALL,
    SHAPES,
    TOOLS,
    USER,
    make_tokenizer,
    shipped,
    stops_of,
    template,
)
from trainer.render import Captured, Conversation, Renderer

TABLE = Path(__file__).with_name("template_table.txt")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_CALL = '{"name": "get_weather", "parameters": {"city": "Turin"}}<|eot_id|>'
QWEN_CALL = (
    'I look it up.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Turin"}}\n'
    "</tool_call><|im_end|>"
)
GPT_CALL = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Turin"}<|call|>'
WALKS_OVER_CONTENT = (
    *("gemma3", "gemma4", "diffusion", "glm", "lfm2_2_5", "muse"),
    *("qwen3_5", "qwen3_6", "qwen3_8", "qwen2_5_vl", "qwen3_vl"),
)
SYSTEM = {"role": "system", "content": "Be brief."}
BROKEN = {"function": {"name": "f", "arguments": "{a"}}
USERS_ONLY = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}")


@lru_cache(maxsize=64)
def tokenizer_of(name: str) -> Any:
    return make_tokenizer(template(name), stops_of(name))


def renderer(name: str, *, keep: bool = False) -> Renderer:
    tokenizer = tokenizer_of(name)
    stops = [tokenizer.convert_tokens_to_ids(stop) for stop in stops_of(name)]
    return Renderer(tokenizer, stops, keep_thinking=keep)


def plain(text: str = CHATML, stops: tuple[str, ...] = ("<|im_end|>",), **options: Any) -> Renderer:
    tokenizer = make_tokenizer(text, stops)
    ids = [tokenizer.convert_tokens_to_ids(stop) for stop in stops]
    return Renderer(tokenizer, ids, keep_thinking=options.get("keep", False))


def cell(name: str, shape: str) -> str:
    """`exact`, after every check, or the reason why not."""
    messages, tools, answer = SHAPES[shape]
    keep = shape == "thinking_kept"
    made = renderer(name, keep=keep)
    try:
        example = made.example(Conversation(messages, tools, options_of(shape)), answer)
    except Unsupported as error:
        return error.reason
    check(name, shape, example, keep)
    return "exact"


def options_of(shape: str) -> dict[str, Any]:
    """The request's switch."""
    return {"enable_thinking": False} if shape == "thinking_off" else {}


def table() -> str:
    """One line per template, one column per shape."""
    lines = [["template", *SHAPES]]
    lines += [[name, *(cell(name, shape) for shape in SHAPES)] for name in shipped()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(rows) + "\n"


def served(name: str, messages: list[dict[str, Any]], tools: Any, **options: Any) -> str:
    """What a server renders, by hand: texts joined, arguments parsed, no role it does not know."""
    text = template(name)
    walks = name.startswith(WALKS_OVER_CONTENT)
    by_hand: list[dict[str, Any]] = []
    for message in messages:
        content = message["content"] or ""
        texts = [p["text"] for p in content] if isinstance(content, list) else [content]
        texts = [each for each in texts if each or message["content"] is not None]
        as_list = walks and message["role"] != "tool"
        parts = [{"type": "text", "text": each} for each in texts]
        made = {**message, "content": parts if as_list else "\n".join(texts)}
        if made["role"] == "developer" and not re.search("[\"']developer[\"']", text):
            made["role"] = "system"
        if "tool_calls" in made:
            function = {"name": "get_weather", "arguments": {"city": "Turin"}}
            made["tool_calls"] = [{**CALL, "function": function}]
        if "reasoning" in made:
            made["reasoning_content"] = made["reasoning"]
        by_hand.append(made)
    rendered = tokenizer_of(name).apply_chat_template(
        by_hand, tools=tools, tokenize=False, **options
    )
    return str(rendered)


def check(name: str, shape: str, example: Any, keep: bool) -> None:
    tokenizer, stops = tokenizer_of(name), stops_of(name)
    messages, tools, answer = SHAPES[shape]
    options = options_of(shape)
    prompt = served(name, messages, tools, add_generation_prompt=True, **options)
    assert list(example.prompt) == tokenizer.encode(prompt, add_special_tokens=False)
    target = tokenizer.decode(example.target)
    ended = [stop for stop in stops if target.endswith(stop)]
    assert ended
    assert sum(target.count(stop) for stop in stops) == 1
    assert not answer["content"] or target.count(answer["content"]) == 1
    assert ("get_weather" in target) == ("tool_calls" in answer)
    assert ("Turin is warm." in target) == keep
    if not keep:
        assert not any(mark in target for pair in THINKING for mark in pair)
    # What the template writes of a finished answer, which may lose its thinking.
    said = target.removesuffix(ended[0]).split("</think>")[-1].strip()
    assert said in served(name, [*messages, answer], tools, **options)


def test_every_template_holds_every_shape_exactly_or_refuses_it_with_the_reason() -> None:
    assert table() == TABLE.read_text(), table()


@pytest.mark.parametrize(
    ("name", "shape", "target"),
    [
        ("llama3", "single", "It is 18 degrees.<|eot_id|>"),
        ("llama3_1", "tool_call", LLAMA_CALL),
        ("qwen3", "single", "It is 18 degrees.<|im_end|>"),
        ("qwen2_5", "text_and_call", QWEN_CALL),
        ("gptoss", "tool_call", GPT_CALL),
        ("glm4moe", "single", "\nIt is 18 degrees.<|user|>"),
        ("gemma", "multi_turn", "It is 18 degrees.<end_of_turn>"),
    ],
)  # fmt: skip
def test_the_target_is_what_is_sampled(name: str, shape: str, target: str) -> None:
    messages, tools, answer = SHAPES[shape]
    example = renderer(name).example(Conversation(messages, tools), answer)
    assert tokenizer_of(name).decode(example.target) == target


def test_thinking_is_taught_only_where_the_task_keeps_it() -> None:
    asked = Conversation([USER])
    thought = {**ANSWER, "reasoning": "hm"}
    kept = renderer("qwen3", keep=True).example(asked, thought)
    text = tokenizer_of("qwen3").decode(kept.target)
    assert text == "<think>\nhm\n</think>\n\nIt is 18 degrees.<|im_end|>"
    inside = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 18 degrees."}
    assert renderer("qwen3").example(asked, inside) == renderer("qwen3").example(asked, ANSWER)


def test_a_switch_that_turns_thinking_off_is_in_the_prompt_as_it_was_served() -> None:
    asked = Conversation([USER], None, {"enable_thinking": False})
    example = renderer("qwen3").example(asked, ANSWER)
    tokenizer = tokenizer_of("qwen3")
    assert tokenizer.decode(example.prompt).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(example.target) == "It is 18 degrees.<|im_end|>"


def test_white_space_of_an_answer_is_taught_as_it_was_sampled() -> None:
    """A template trims finished answers; the model did not."""
    example = renderer("llama3").example(Conversation([USER]), {**ANSWER, "content": "\n\nyes \n"})
    assert tokenizer_of("llama3").decode(example.target) == "\n\nyes \n<|eot_id|>"


def test_a_prompt_keeps_its_tokens_where_the_answer_could_merge_with_them() -> None:
    made = plain()
    asked = Conversation([USER])
    example = made.example(asked, {"role": "assistant", "content": "\nyes"})
    assert list(example.prompt) == made.prompt_ids(asked)
    newline = made.tokenizer.encode("\n", add_special_tokens=False)
    assert list(example.target[:1]) == newline


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"content": None}, "no_answer"),
        ({"content": "a<|im_end|>b"}, "special_token_in_answer"),
        ({"content": "as in HTML: <bos>struck</bos>"}, "special_token_in_answer"),
        ({"content": "x", "tool_calls": [BROKEN]}, "arguments_not_json"),
        ({"content": "", "tool_calls": [CALL]}, "template_ignores_tool_calls"),
        ({"content": [{"type": "image_url"}]}, "content_not_text"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_taught_has_a_reason(answer: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unsupported) as raised:
        plain().example(Conversation([USER]), {"role": "assistant", **answer})
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("text", "asked", "reason"),
    [
        (CHATML, Conversation([USER], TOOLS), "template_ignores_tools"),
        ("{{ raise_exception('no') }}", Conversation([USER]), "template_refuses"),
        ("{{ messages[0].content / 2 }}", Conversation([USER]), "template_refuses"),
        (USERS_ONLY, Conversation([SYSTEM, USER]), "template_drops_message"),
    ],
)  # fmt: skip
def test_a_prompt_that_the_template_cannot_hold_has_a_reason(
    text: str, asked: Conversation, reason: str
) -> None:
    with pytest.raises(Unsupported) as raised:
        plain(text).example(asked, ANSWER)
    assert raised.value.reason == reason


def test_an_answer_ends_with_the_eos_where_the_template_writes_no_end() -> None:
    text = CHATML.replace("m.content + '<|im_end|>\n'", "m.content + '\n'")
    example = plain(text).example(Conversation([USER]), ANSWER)
    made = plain(text)
    assert made.tokenizer.decode(example.target) == "It is 18 degrees.<|im_end|>"


def test_an_end_that_the_model_does_not_stop_at_is_refused() -> None:
    made = plain(CHATML)
    other = Renderer(made.tokenizer, [made.tokenizer.pad_token_id], keep_thinking=False)
    with pytest.raises(Unsupported) as raised:
        other.example(Conversation([USER]), ANSWER)
    assert raised.value.reason == "no_end_of_turn"


@pytest.mark.parametrize(
    ("name", "printed"),
    [("llama3_2", "03 Feb 2024"), ("gptoss", "2024-02-03"), ("muse_glimmer", "2024-02-03")],
)  # fmt: skip
def test_a_template_that_prints_the_date_prints_the_day_on_which_production_was_asked(
    name: str, printed: str
) -> None:
    made, then = renderer(name), datetime(2024, 2, 3, 12, tzinfo=UTC)
    asked = Conversation([USER], asked_at=then)
    assert printed in made.prompt_text(asked)
    assert printed not in made.prompt_text(Conversation([USER]))
    taught = made.example(asked, ANSWER)
    assert list(taught.prompt) == made.prompt_ids(asked)
    assert taught.target == made.example(Conversation([USER]), ANSWER).target


def test_a_date_that_the_request_named_is_the_one_in_the_prompt() -> None:
    then = datetime(2024, 2, 3, 12, tzinfo=UTC)
    asked = Conversation([USER], None, {"date_string": "Tuesday"}, then)
    assert "Today Date: Tuesday" in renderer("llama3_1").prompt_text(asked)


def test_production_tokens_win_where_they_are_of_this_prompt() -> None:
    made = plain()
    asked = Conversation([USER])
    prompt, end = made.prompt_ids(asked), next(iter(made.stops))
    sampled = [*made.tokenizer.encode("It", add_special_tokens=False), end]
    assert made.example(asked, ANSWER, Captured(prompt, sampled)).target == tuple(sampled)
    usual = made.example(asked, ANSWER)
    for other in (
        Captured([*prompt, 5], sampled),  # another prompt, nothing known of the template
        Captured(prompt, sampled[:-1]),  # cut off
        Captured(prompt, []),
    ):
        assert made.example(asked, ANSWER, other) == usual
    known = Captured([*prompt, 5], sampled, same_template=True)
    assert made.example(asked, ANSWER, known).prompt == (*prompt, 5)
    hidden = {**ANSWER, "reasoning": "hm"}
    assert made.example(asked, hidden, Captured(prompt, sampled)) == usual


def test_a_real_chat_model_is_rendered_as_the_local_server_renders_it(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    made = Renderer(tokenizer, [tokenizer.eos_token_id], keep_thinking=False)
    parts = {"role": "user", "content": [{"type": "text", "text": "warm?"}]}
    example = made.example(Conversation([parts]), ANSWER)
    text = tokenizer.decode(example.input_ids)
    assert text.endswith("<|im_start|>assistant\nIt is 18 degrees.<|im_end|>")
    assert tokenizer.decode(example.target) == "It is 18 degrees.<|im_end|>"
    with pytest.raises(Unsupported) as raised:
        made.example(Conversation([USER], TOOLS), ANSWER)
    assert raised.value.reason == "template_ignores_tools"

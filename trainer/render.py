"""From a conversation to tokens: the prompt as the server makes it, the target as it is sampled.

- The prompt is the template's text with the generation prompt, tokenised as the server does it.
- The target is the rest of the answer's turn up to and including the token that ends it. Nothing
  else is in the loss: no newline after it, no header, no thinking that nobody asked for.
- What the template cannot hold - it raises, drops a message, ignores tools - is `Unsupported` with
  a reason to count by. It is never trained on approximately.

Where the answer begins and ends is found with marks: the template renders the conversation with a
mark in the place of the text, so neither trimming nor history rewriting can move the border.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from everlearn.chat import (
    THINKING,
    Unsupported,
    arguments_object,
    split_thinking,
    template_messages,
    template_tools,
)

ANSWER, THOUGHT = "\u27e6answer\u27e7", "\u27e6thought\u27e7"
"""Marks: brackets that no template writes."""
_NOW = re.compile(r"""\bstrftime_now\(\s*(["'])([^"'\\\\]+)\1\s*\)""")
_OPENERS = (
    *(opens for opens, _ in THINKING),
    *("<|START_THINKING|>", "<|channel>thought", "<|channel|>analysis", "\u25c1think\u25b7"),
)


@dataclass(frozen=True)
class Example:
    """One row as tokens; the loss is on `target` alone."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def input_ids(self) -> list[int]:
        return [*self.prompt, *self.target]

    @property
    def labels(self) -> list[int]:
        """-100 on the prompt."""
        return [-100] * len(self.prompt) + list(self.target)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class Conversation:
    """What a request said: messages, tools and the template options it named."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] | None = None
    asked_at: datetime | None = None
    """What a template that prints the date prints, in this machine's time zone; None: now."""


@dataclass(frozen=True)
class Captured:
    """Token ids of a production answer."""

    prompt: Sequence[int]
    completion: Sequence[int]
    same_template: bool = False
    """Whether it is known that this very template rendered the prompt."""


class Renderer:
    """One base model's template and tokenizer. `stop_ids` are what ends an answer when sampled."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int], *, keep_thinking: bool) -> None:
        self.tokenizer = tokenizer
        self.stops = {int(each): tokenizer.convert_ids_to_tokens(int(each)) for each in stop_ids}
        # Sampled as letters, as the <s> of HTML is, it would be taught as the control token itself.
        self._control = frozenset({*self.stops.values(), *tokenizer.all_special_tokens})
        self.keep_thinking = keep_thinking
        self._whole: dict[str, str] = {}

    def prompt_text(self, asked: Conversation) -> str:
        """The prompt as the server renders it; Unsupported when something of it is left out."""
        template = self._template(asked)
        messages = template_messages(asked.messages, template)
        prompt = self._render(asked, messages, generate=True)
        self._nothing_left_out(asked, messages)
        return prompt

    def prompt_ids(self, asked: Conversation) -> list[int]:
        """The prompt's tokens."""
        return self._ids(self.prompt_text(asked))

    def example(
        self, asked: Conversation, answer: Mapping[str, Any], captured: Captured | None = None
    ) -> Example:
        """The row as tokens; production's own ids where they are known to be of this prompt."""
        prompt = self.prompt_text(asked)
        ids = self._ids(prompt)
        turn = self._turn(asked, prompt, answer)
        if captured is not None and self._same(captured, ids, answer):
            return Example(tuple(captured.prompt), tuple(captured.completion))
        return Example(tuple(ids), tuple(self._target_ids(prompt, ids, turn)))

    def _same(self, captured: Captured, prompt: list[int], answer: Mapping[str, Any]) -> bool:
        """Whether what was captured is this prompt, ended by itself, without hidden thinking."""
        ended = bool(captured.completion) and captured.completion[-1] in self.stops
        thought = answer.get("reasoning") and not self.keep_thinking
        ours = captured.same_template or list(captured.prompt) == prompt
        if not ended or thought or not ours:
            return False
        text = self.tokenizer.decode(list(captured.completion), skip_special_tokens=False)
        return self.keep_thinking or not any(opens in text for opens in _OPENERS)

    def _turn(self, asked: Conversation, prompt: str, answer: Mapping[str, Any]) -> str:
        """What is sampled after the prompt, its end-of-turn token last."""
        thought, content, calls = self._parts(answer)
        texts = (content, thought or "", json.dumps(calls, ensure_ascii=False))
        if any(mark in text for mark in self._control for text in texts):
            raise Unsupported("special_token_in_answer", "the answer's text holds a control token")
        marked = _marked(content, calls, thought)
        template = self._template(asked)
        history = [*asked.messages, marked]
        whole = self._render(asked, template_messages(history, template), generate=False)
        if content and whole.count(ANSWER) != 1:
            raise Unsupported("template_drops_content", "the template leaves the answer's text out")
        # A prompt that begins the thinking has its place, whatever finished answers look like.
        aside = thought is not None and whole.count(THOUGHT) != 1
        if aside and not _left_open(prompt):
            raise Unsupported("template_drops_thinking", "the template has no place for thinking")
        start = self._start(asked, prompt, whole, aside)
        for call in calls:
            if json.dumps(call["function"]["name"], ensure_ascii=False)[1:-1] not in whole[start:]:
                raise Unsupported("template_ignores_tool_calls", "tool calls are not rendered")
        body = whole[start:]
        if aside:
            body = f"{THOUGHT}{_closing(prompt)}{body}"
        body = self._without_empty_thinking(prompt, body, bool(content))
        body = self._until_stop(body, asked, history)
        return body.replace(THOUGHT, (thought or "").strip()).replace(ANSWER, content)

    def _parts(self, answer: Mapping[str, Any]) -> tuple[str | None, str, list[dict[str, Any]]]:
        """Thinking if it is kept, the text, and the calls of an answer."""
        text = template_messages([{**answer, "role": "user"}], "")[0]["content"]
        text = text or str(answer.get("refusal") or "")
        inside, content = split_thinking(text)
        thought = answer.get("reasoning") or inside or None
        calls = [_call(call) for call in answer.get("tool_calls") or []]
        if not content.strip() and not calls:
            raise Unsupported("no_answer", "nothing was said and nothing called")
        return (thought if self.keep_thinking else None), content, calls

    def _start(self, asked: Conversation, prompt: str, whole: str, thinks: bool) -> int:
        """Where in `whole` the answer starts that is sampled after `prompt`."""
        shared = _shared(prompt, whole)
        rest = prompt[shared:]
        if not rest:
            return shared
        template = self._template(asked)
        before = self._render(asked, template_messages(asked.messages, template), generate=False)
        if shared < len(prompt[: _shared(before, prompt)].rstrip()):
            raise Unsupported(
                "template_rewrites_history", "an answer changes what stands before it"
            )
        # Space that the template trims from a finished answer, or the empty thinking block by
        # which it switches thinking off: both were there when the answer was sampled.
        block, _, after = _thinking_block(rest)
        if rest.strip() == "" or (block is not None and after.strip() == ""):
            return shared
        if thinks and rest.strip() in _OPENERS:
            return shared
        raise Unsupported(
            "template_opens_thinking" if _opens(rest) else "template_rewrites_prompt",
            f"a finished answer does not begin with the prompt's end {rest[-40:]!r}",
        )

    def _without_empty_thinking(self, prompt: str, body: str, content: bool) -> str:
        """The turn without the empty block that templates write into answers without thinking."""
        lead = body.partition(ANSWER)[0] if content else body
        block, before, after = _thinking_block(lead)
        if block is not None and block.strip() == "":
            return before + after.lstrip("\n") + body[len(lead) :]
        if _left_open(prompt) and THOUGHT not in lead:
            raise Unsupported(
                "template_opens_thinking",
                "the prompt begins the thinking, which is not taught: set train.reasoning: keep",
            )
        if content and _left_open(lead):
            raise Unsupported("template_puts_text_into_thinking", "the text would be thinking")
        return body

    def _until_stop(self, body: str, asked: Conversation, history: Sequence[Any]) -> str:
        """`body` up to and including the first token that ends an answer."""
        end = self._end(body)
        if end is not None:
            return body[:end]
        # Some models stop by opening the next turn: what follows the answer is their end.
        for follower in ({"role": "user", "content": "next"}, {"role": "tool", "content": "next"}):
            found = self._followed(asked, history, follower, body)
            if found is not None:
                return found
        if self.tokenizer.eos_token and not self._has_special(body):
            return body.rstrip("\n") + str(self.tokenizer.eos_token)
        raise Unsupported("no_end_of_turn", "the template ends an answer with no stop token")

    def _followed(
        self, asked: Conversation, history: Sequence[Any], follower: Mapping[str, Any], body: str
    ) -> str | None:
        if (follower["role"] == "tool") != bool(history[-1].get("tool_calls")):
            return None
        try:
            messages = template_messages([*history, follower], self._template(asked))
            longer = self._render(asked, messages, generate=False)
        except Unsupported:
            return None
        # An earlier answer may lose its thinking, so only what stands after the text is looked for.
        tail = body.rstrip()[max(body.rfind(ANSWER), len(body.rstrip()) - 24, 0) :]
        place = longer.rfind(tail)
        if place < 0 or not tail:
            return None
        after = longer[place + len(tail) :]
        end = self._end(after)
        if end is None or "next" in after[:end]:
            return None
        return body.rstrip() + after[:end].lstrip("\n")

    def _end(self, text: str) -> int | None:
        ends = [text.find(stop) + len(stop) for stop in self.stops.values() if stop in text]
        return min(ends) if ends else None

    def _has_special(self, body: str) -> bool:
        tail = body[body.rfind(ANSWER) + len(ANSWER) :] if ANSWER in body else body
        return any(token in tail for token in self.tokenizer.all_special_tokens)

    def _nothing_left_out(self, asked: Conversation, messages: list[dict[str, Any]]) -> None:
        """Unsupported when the template silently leaves out a message, a call or the tools."""
        marks: list[str] = []

        def mark(kind: str) -> str:
            marks.append(f"\u27e6{kind}{len(marks)}\u27e7")
            return marks[-1]

        shadow = [_shadow(message, mark) for message in messages]
        plain = all(each["role"] in ("user", "assistant") for each in messages)
        if plain and not asked.tools and not any(each.get("tool_calls") for each in messages):
            return
        text = self._render(asked, shadow, generate=True)
        missing = [each for each in marks if each not in text and _escaped(each) not in text]
        if missing:
            kind = missing[0].strip("\u27e6\u27e7").rstrip("0123456789")
            raise Unsupported(f"template_drops_{kind}", f"the template leaves a {kind} out")
        bare = replace(asked, tools=None)
        if asked.tools and self._render(bare, shadow, generate=True) == text:
            raise Unsupported("template_ignores_tools", "the template does not show the tools")

    def _target_ids(self, prompt: str, prompt_ids: list[int], turn: str) -> list[int]:
        """Tokens of the turn as they follow the prompt's."""
        whole = self._ids(prompt + turn)
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
        # The prompt's last token and the turn's first would merge; a server samples them apart.
        alone = self._ids(turn)
        if self._decode([*prompt_ids, *alone]) == self._decode(whole):
            return alone
        raise Unsupported(
            "tokens_do_not_join", "the answer cannot follow the prompt token by token"
        )

    def _render(
        self, asked: Conversation, messages: list[dict[str, Any]], *, generate: bool
    ) -> str:
        options = dict(asked.options or {})
        template = self._template(asked)
        if asked.asked_at is not None and (dated := _dated(template, asked.asked_at)) != template:
            options["chat_template"] = dated
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=template_tools(asked.tools),
                tokenize=False,
                add_generation_prompt=generate,
                **options,
            )
        except Unsupported:
            raise
        # A template is a program of somebody else: whatever it raises, it cannot hold the row.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise Unsupported("template_refuses", reason) from error
        return str(text)

    def _template(self, asked: Conversation) -> str:
        return str(self.tokenizer.get_chat_template(None, template_tools(asked.tools)))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


def _dated(template: str, at: datetime) -> str:
    """The template with what `strftime_now` gave then in its place: what is handed to a template
    can be no function."""
    local = at.astimezone()
    return _NOW.sub(lambda found: json.dumps(local.strftime(found[2])), template)


def _marked(content: str, calls: list[dict[str, Any]], thought: str | None) -> dict[str, Any]:
    """The answer with marks in the place of its texts."""
    message: dict[str, Any] = {"role": "assistant", "content": ANSWER if content else ""}
    if calls:
        message["tool_calls"] = calls
    if thought is not None:
        message["reasoning"] = THOUGHT
    return message


def _call(call: Any) -> dict[str, Any]:
    """A call for a template; a call to be taught must have arguments that are an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unsupported("tool_call_unreadable", "a tool call without function and name")
    arguments = arguments_object(function.get("parsed", function.get("arguments")))
    if arguments is None:
        raise Unsupported("arguments_not_json", "a tool call's arguments are no JSON object")
    return {
        "id": call.get("id") or "call_0",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _shadow(message: Mapping[str, Any], mark: Callable[[str], str]) -> dict[str, Any]:
    """The message with a mark in the place of its text and of each call's name."""
    shadow = dict(message)
    kind = {"tool": "tool_result"}.get(str(message["role"]), "message")
    content = message["content"]
    if isinstance(content, list) and content:
        shadow["content"] = [{"type": "text", "text": mark(kind)}, *content[1:]]
    elif isinstance(content, str) and content.strip():
        shadow["content"] = mark(kind)
    if message.get("tool_calls"):
        shadow["tool_calls"] = [
            {**call, "function": {**call["function"], "name": mark("tool_call")}}
            for call in message["tool_calls"]
        ]
    return shadow


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def _thinking_block(text: str) -> tuple[str | None, str, str]:
    """What is thought in the first closed block, and the text before and after it."""
    for opens, closes in THINKING:
        before, opened, inside = text.partition(opens)
        thought, closed, after = inside.partition(closes)
        if opened and closed:
            return thought, before, after
    return None, text, ""


def _opens(text: str) -> bool:
    return any(opens in text for opens in _OPENERS)


def _left_open(text: str) -> bool:
    """Whether thinking was begun and not ended."""
    for opens, closes in THINKING:
        if text.rfind(opens) > text.rfind(closes):
            return True
    return text.rfind("<|channel|>analysis") > text.rfind("<|end|>")


def _closing(prompt: str) -> str:
    """What ends the thinking that the prompt begins."""
    opened = max(THINKING, key=lambda pair: prompt.rfind(pair[0]))
    return f"\n{opened[1]}\n\n"


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))

"""A request's messages as a chat template takes them: one normalisation for serving and training.

What is trained on must be what is served, so both sides call this and nothing else:

- Text parts become one string, or stay a list where the template walks over parts, as vLLM does.
- A null content is an empty text; arguments of a tool call are an object, not its JSON text.
- A `developer` message is a system message for a template that does not know the role.
- What no chat template can hold (pictures, audio, a message without a role) raises `Unsupported`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

Message = Mapping[str, Any]
Format = Literal["string", "parts"]

TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
RUN_OPTIONS = frozenset(
    [
        "conversation",
        "chat_template",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "messages",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)
"""Names that `apply_chat_template` takes for itself."""
THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
"""How models write thinking into their text: what opens and what closes it."""


class Unsupported(ValueError):
    """Messages that cannot be rendered; `reason` is a short name to count by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def template_messages(messages: Any, template: str) -> list[dict[str, Any]]:
    """The messages as `template` takes them; Unsupported with the reason."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Unsupported("messages_unreadable", "messages must be a list of at least one")
    form = content_format(template)
    rendered = [_message(message, form) for message in messages]
    if any(each["role"] == "developer" for each in rendered) and not _knows_developer(template):
        rendered = _one_system([_as_system(each) for each in rendered])
    return rendered


def template_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Function definitions with the keys, and in the order, in which vLLM hands them on."""
    if not tools:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise Unsupported("tools_unreadable", "tools must be a list")
    return [_tool(tool) for tool in tools]


def template_options(kwargs: Any, effort: Any = None) -> dict[str, Any]:
    """What else of a request its template sees: `chat_template_kwargs` and `reasoning_effort`.

    A client names variables of the template, never the template or how it is run.
    """
    given = dict(kwargs) if isinstance(kwargs, Mapping) else {}
    options = {str(key): value for key, value in given.items() if key not in RUN_OPTIONS}
    if isinstance(effort, str):
        options.setdefault("enable_thinking", effort != "none")
        options.setdefault("reasoning_effort", effort)
    return options


def arguments_object(arguments: Any) -> dict[str, Any] | None:
    """Arguments of a tool call as an object; None if they are not one."""
    if arguments in (None, ""):
        return {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return dict(arguments) if isinstance(arguments, Mapping) else None


def split_thinking(text: str) -> tuple[str | None, str]:
    """Thinking that a server left in the text, and the answer after it.

    Also where only the closing mark is there: a template may open the thinking in the prompt.
    """
    for opens, closes in THINKING:
        head, mark, answer = text.partition(closes)
        if mark and (head.lstrip().startswith(opens) or opens not in head):
            return head.lstrip().removeprefix(opens).strip(), answer.lstrip("\n")
    return None, text


@lru_cache(maxsize=64)
def content_format(template: str) -> Format:
    """`parts` when the template loops over a message's content, so that it wants a list."""
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import loopcontrols

    class Generation(loopcontrols):
        """`{% generation %}`, which transformers adds to jinja."""

        tags = loopcontrols.tags | {"generation"}

        def parse(self, parser: Any) -> Any:
            if parser.stream.current.value != "generation":
                return super().parse(parser)
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    try:
        tree = Environment(extensions=[Generation]).parse(template)
    except TemplateSyntaxError:
        return "string"
    loops = list(tree.find_all(nodes.For))
    macros = {
        id(loop) for macro in tree.find_all(nodes.Macro) for loop in macro.find_all(nodes.For)
    }
    items = set(_loop_targets(loops, _aliases(tree, "messages")))
    if any(_is_content(loop.iter, items) for loop in loops):
        return "parts"
    if any(_plain_name(loop.iter) == "content" and id(loop) not in macros for loop in loops):
        return "parts"
    return "parts" if _walks_in_a_macro(tree, items) else "string"


def _message(message: Any, form: Format) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise Unsupported("messages_unreadable", "every message is an object with a role")
    role = message["role"]
    texts = _texts(message.get("content"))
    as_parts = form == "parts" and role != "tool"
    content: Any = [{"type": "text", "text": t} for t in texts] if as_parts else "\n".join(texts)
    rendered = {"role": role, "content": content}
    if role == "assistant":
        rendered |= _of_assistant(message)
    if isinstance(message.get("name"), str):
        rendered["name"] = message["name"]
    if role == "tool" and message.get("tool_call_id") is not None:
        rendered["tool_call_id"] = message["tool_call_id"]
    if role == "developer":
        rendered["tools"] = message.get("tools")
    return rendered


def _texts(content: Any) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence):
        raise Unsupported("content_unreadable", "content must be a string or a list of parts")
    return [text for part in content for text in _part(part)]


def _part(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if kind not in TEXT_PARTS:
        raise Unsupported("content_not_text", f"only text content is supported, not {kind!r}")
    text = part.get("text", part.get(kind))
    if text is None:
        return []
    if not isinstance(text, str):
        raise Unsupported("content_unreadable", f"a part of type {kind!r} must hold a text")
    return [text]


def _of_assistant(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if message.get("tool_calls"):
        found["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(reasoning, str):
        found |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return found


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unsupported("tool_call_unreadable", "a tool call is {id, type, function: {name}}")
    # As vLLM: arguments in the history that are no object must not end the conversation.
    arguments = arguments_object(function.get("arguments")) or {}
    rendered = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **rendered} if call.get("id") is not None else rendered


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unsupported("tools_unreadable", "a tool is {type: function, function: {name, ...}}")
    shown = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        shown["strict"] = function["strict"]
    return {"type": "function", "function": shown}


def _knows_developer(template: str) -> bool:
    return '"developer"' in template or "'developer'" in template


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] != "developer":
        return message
    return {key: value for key, value in message.items() if key != "tools"} | {"role": "system"}


def _one_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some templates want the one system message first."""
    system = [index for index, message in enumerate(messages) if message["role"] == "system"]
    if system in ([], [0]):
        return messages
    texts = ["\n".join(_texts(messages[index]["content"])) for index in system]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in messages if message["role"] != "system")]


def _plain_name(node: Any) -> str | None:
    """The variable behind filters, tests and slices."""
    from jinja2 import nodes

    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node.name if isinstance(node, nodes.Name) else None


def _is_content(node: Any, items: set[str]) -> bool:
    """Whether the node is `item.content` or `item['content']` of one of the items."""
    from jinja2 import nodes

    while isinstance(node, nodes.Filter | nodes.Test):
        node = node.node
    if isinstance(node, nodes.Getattr) and node.attr == "content":
        return _plain_name(node.node) in items
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value == "content" and _plain_name(node.node) in items
    return False


def _aliases(tree: Any, name: str) -> set[str]:
    """The variable and those set from it."""
    from jinja2 import nodes

    found, grown = {name}, True
    while grown:
        more = {
            assign.target.name
            for assign in tree.find_all(nodes.Assign)
            if isinstance(assign.target, nodes.Name) and _plain_name(assign.node) in found
        }
        grown = not more <= found
        found |= more
    return found


def _loop_targets(loops: Sequence[Any], sources: set[str]) -> Iterator[str]:
    for loop in loops:
        if _plain_name(loop.iter) in sources and hasattr(loop.target, "name"):
            yield loop.target.name


def _walks_in_a_macro(tree: Any, items: set[str]) -> bool:
    """Whether a macro that is given a message's content loops over it."""
    from jinja2 import nodes

    for macro in tree.find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        walked = {_plain_name(loop.iter) for loop in macro.find_all(nodes.For)}
        for call in tree.find_all(nodes.Call):
            if getattr(call.node, "name", None) != macro.name:
                continue
            given = [*zip(names, call.args, strict=False), *((k.key, k.value) for k in call.kwargs)]
            if any(name in walked and _is_content(value, items) for name, value in given):
                return True
    return False

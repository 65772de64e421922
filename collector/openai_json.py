"""OpenAI-shaped bodies, typed for the fields the lake keeps; everything else is passed over.

vLLM's additions (`prompt_token_ids`, `token_ids`, sampling keys) are read where they stand, and
what other servers send under other names (`reasoning_content`, `function_call`). Fields whose type
differs from server to server are `Any`: one odd value must not send a body down the slow way.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from everlearn.tolerant import read
from everlearn.verdict import Ending, Envelope, Said

NOTHING = Raw(b"")
"""A field that is not there."""


class Request(Struct, omit_defaults=True, gc=False):
    """What the model was shown and may use, as the client sent it, and what steers the answer."""

    messages: Raw = NOTHING
    prompt: Raw = NOTHING
    suffix: Raw = NOTHING
    """What stands after the text that is asked for."""
    input: Raw = NOTHING
    instructions: Raw = NOTHING
    metadata: Raw = NOTHING
    tools: Raw = NOTHING
    functions: Raw = NOTHING
    tool_choice: Raw = NOTHING
    function_call: Raw = NOTHING
    response_format: Raw = NOTHING
    text: Raw = NOTHING
    """Of the Responses API: `format` is its response format."""
    previous_response_id: Any = UNSET
    conversation: Any = UNSET
    temperature: float | UnsetType | None = UNSET
    top_p: float | UnsetType | None = UNSET
    top_k: int | UnsetType | None = UNSET
    min_p: float | UnsetType | None = UNSET
    seed: int | UnsetType | None = UNSET
    max_tokens: int | UnsetType | None = UNSET
    max_completion_tokens: int | UnsetType | None = UNSET
    max_output_tokens: int | UnsetType | None = UNSET
    n: int | UnsetType | None = UNSET
    stop: Any = UNSET
    presence_penalty: float | UnsetType | None = UNSET
    frequency_penalty: float | UnsetType | None = UNSET
    repetition_penalty: float | UnsetType | None = UNSET
    logit_bias: Any = UNSET
    reasoning_effort: Any = UNSET
    parallel_tool_calls: Any = UNSET
    chat_template_kwargs: Any = UNSET
    chat_template: Any = UNSET
    add_generation_prompt: Any = UNSET
    continue_final_message: Any = UNSET
    echo: Any = UNSET
    structured_outputs: Any = UNSET
    guided_json: Any = UNSET
    guided_regex: Any = UNSET
    guided_choice: Any = UNSET
    guided_grammar: Any = UNSET
    grammar: Any = UNSET
    json_schema: Any = UNSET
    regex: Any = UNSET
    ebnf: Any = UNSET
    bad_words: Any = UNSET
    allowed_token_ids: Any = UNSET
    ignore_eos: Any = UNSET
    min_tokens: Any = UNSET
    logits_processors: Any = UNSET
    custom_logit_processor: Any = UNSET
    nvext: Any = UNSET


class Function(Struct, gc=False):
    """A called function; of a stream, a part of it."""

    name: str | None = None
    arguments: Any = None
    """Text; an object from llama.cpp, TGI and others."""


class Custom(Struct, gc=False):
    """A called tool whose input is plain text."""

    name: str | None = None
    input: Any = None


class ToolCall(Struct, gc=False):
    """One tool call; of a stream, a part of one."""

    index: int | None = None
    id: str | int | None = None
    type: str | None = None
    function: Function | None = None
    custom: Custom | None = None


class Message(Said, gc=False):
    """An answer's message; of a stream, a delta."""

    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    thinking: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    audio: Any = None
    images: Any = None


def thought_of(message: Message) -> Any:
    """The thinking of a message or a delta, under whichever name; some servers write two."""
    return (
        message.reasoning
        or message.reasoning_content
        or message.thinking
        or message.reasoning_details
        or message.thinking_blocks
    )


class TokenLogprob(Struct, gc=False):
    """One sampled token of a chat."""

    logprob: float | None = None


class Logprobs(Struct, gc=False):
    """`content` of a chat, `token_logprobs` of a plain completion."""

    content: list[TokenLogprob] | None = None
    token_logprobs: list[float | None] | None = None


class Choice(Ending, gc=False):
    """One answer, or a chunk of it."""

    message: Message | None = None
    delta: Message | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    usage: "Usage | None" = None


class Usage(Struct, gc=False):
    """Token counts under either API's names, in whichever form of a number."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    input_tokens: Any = None
    output_tokens: Any = None


class Groq(Struct, gc=False):
    """Where Groq's streams say what they used."""

    usage: Usage | None = None


class Output(Struct, gc=False):
    """One output item of the Responses API."""

    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    input: Any = None
    content: Any = None
    summary: Any = None
    result: Any = None
    action: Any = None
    queries: Any = None
    code: Any = None


class Response(Envelope, gc=False):
    """A whole body, or one chunk of a stream, of any endpoint."""

    id: str | int | float | None = None
    choices: list[Choice] | None = None
    output: list[Output] | None = None
    usage: Usage | None = None
    x_groq: Groq | None = None
    prompt_token_ids: list[int] | None = None
    response: "Response | None" = None
    item: Output | None = None
    """Of a Responses stream event: the item at `output_index`."""
    output_index: int | None = None
    item_id: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    """All of what the deltas of an item said."""


decode_request = msgspec.json.Decoder(Request).decode
decode_response = msgspec.json.Decoder(Response).decode


def read_request(body: bytes) -> Request:
    """A request's body; raises what is in `tolerant.UNREADABLE`."""
    return read(decode_request, Request, body)


def read_response(body: bytes) -> Response:
    """A whole body or a chunk; raises what is in `tolerant.UNREADABLE`."""
    return read(decode_response, Response, body)

"""OpenAI-shaped bodies, typed for the fields the lake keeps; everything else is passed over.

vLLM's additions (`prompt_token_ids`, `token_ids`, sampling keys) are read where they stand.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

NOTHING = Raw(b"")
"""A field that is not there."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: no JSON, other types than ours, no UTF-8, nested without end."""


class Prompt(Struct, omit_defaults=True, gc=False):
    """The prompt of any endpoint, as the client sent it."""

    messages: Raw = NOTHING
    prompt: Raw = NOTHING
    input: Raw = NOTHING
    instructions: Raw = NOTHING
    metadata: Raw = NOTHING


class Request(Prompt, omit_defaults=True, gc=False):
    """The prompt, and what steers the answer."""

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
    response_format: Any = UNSET
    reasoning_effort: Any = UNSET


class Function(Struct, gc=False):
    """A called function; of a stream, a part of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct, gc=False):
    """One tool call; of a stream, a part of the one at `index`."""

    index: int = 0
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class Message(Struct, gc=False):
    """An answer's message; of a stream, a delta."""

    content: Any = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class TokenLogprob(Struct, gc=False):
    """One sampled token of a chat."""

    logprob: float


class Logprobs(Struct, gc=False):
    """`content` of a chat, `token_logprobs` of a plain completion."""

    content: list[TokenLogprob] | None = None
    token_logprobs: list[float | None] | None = None


class Choice(Struct, gc=False):
    """One answer, or a chunk of it."""

    index: int = 0
    message: Message | None = None
    delta: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Usage(Struct, gc=False):
    """Token counts under either API's names."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Part(Struct, gc=False):
    """A part of a Responses output message."""

    text: str | None = None


class Output(Struct, gc=False):
    """One output item of the Responses API."""

    type: str = ""
    content: list[Part] | None = None
    name: str | None = None
    arguments: str | None = None
    call_id: str | None = None


class Response(Struct, gc=False):
    """A whole body, or one chunk of a stream, of any endpoint."""

    id: str | None = None
    choices: list[Choice] = []
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    output: list[Output] = []
    status: str | None = None
    type: str | None = None
    """Of a Responses stream event."""
    delta: Any = None
    response: "Response | None" = None


decode_request = msgspec.json.Decoder(Request).decode
decode_prompt = msgspec.json.Decoder(Prompt).decode
decode_json = msgspec.json.Decoder().decode
decode_response = msgspec.json.Decoder(Response).decode
encode = msgspec.json.Encoder().encode

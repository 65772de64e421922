"""Request bodies: OpenAI's fields and the vLLM extras served here.

Unknown fields are ignored, as vLLM does. A known field that would change the answer and cannot be
honoured is refused: silence would look like obedience. Every field has a bound, and a request
brings no chat template: that is a program, run here.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from everlearn.chat import RUN_OPTIONS
from serving.local.model import Defaults
from serving.local.sampling import Sampling
from serving.local.shape import ANY_OBJECT, Penalties
from serving.local.tools import call_schema

MAX_LOGPROBS = 20
MAX_ANSWERS = 128
"""Of one request: prompts times `n`."""
MAX_TOKENS = 10_000_000
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_000
MAX_STOP_IDS = 128
MAX_MESSAGES = 4_096
MAX_TOOLS = 128
MAX_NAME = 512
MAX_DEPTH = 32
"""Of objects and lists within each other, in any field."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_p": (None, 0, 0.0),
    "min_tokens": (None, 0),
    "logit_bias": (None, {}),
    "use_beam_search": (None, False),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "prompt_logprobs": (None,),
    "allowed_token_ids": (None, []),
    "bad_words": (None, []),
    "structured_outputs": (None,),
    "functions": (None, []),
    "chat_template": (None,),
}
"""Fields not honoured here -> values that ask for nothing."""

TokenIds = Annotated[list[int], Field(min_length=1)]


Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Name = Annotated[str, Field(max_length=MAX_NAME)]


def refused(param: str, reason: str) -> PydanticCustomError:
    """A value that no type forbids; `param` is the field."""
    return PydanticCustomError("value_error", "{reason}", {"param": param, "reason": reason})


class Body(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(Body):
    """What a stream says beside its chunks."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class NamedSchema(Body):
    """`json_schema` of a response format."""

    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise refused("response_format", "type json_schema needs a `json_schema`")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """None: any text."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema else ANY_OBJECT


class Generation(Body, ABC):
    """Fields of both completion routes."""

    model: Name | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = 1
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=1_000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1_000)] | None = None
    response_format: ResponseFormat | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = False
    return_tokens_as_token_ids: bool | None = False

    @model_validator(mode="after")
    def _nothing_ignored_silently(self) -> "Generation":
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value not in NEUTRAL[name]:
                raise refused(name, "not supported by the local model server")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(not stop for stop in stops):
            raise refused("stop", "cannot contain an empty string")
        if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
            raise refused(
                "stop", f"at most {MAX_STOPS} strings of at most {MAX_STOP_CHARACTERS} characters"
            )
        for name, value in self:
            if isinstance(value, dict | list) and not _is_shallow(value):
                raise refused(name, f"nested deeper than {MAX_DEPTH}")
        if self.response_format is not None and not _is_shallow(self.response_format.model_dump()):
            raise refused("response_format", f"nested deeper than {MAX_DEPTH}")
        return self

    @property
    def answers(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """What the answer must be JSON of; None: any text."""
        return self.response_format.schema_of_answer if self.response_format else None

    @property
    @abstractmethod
    def logprob_count(self) -> int | None:
        """None: no logprobs asked for."""

    def limit(self, room: int, defaults: Defaults) -> int:
        """Tokens the answer may have, `room` being what the context leaves."""
        wanted = self.max_tokens or defaults.max_tokens
        return min(room, wanted) if wanted else room

    def sampling(
        self, room: int, defaults: Defaults, end_ids: frozenset[int], index: int
    ) -> Sampling:
        """Of answer number `index`: each has a seed of its own; without a grammar yet."""
        temperature = defaults.temperature if self.temperature is None else self.temperature
        top_k = defaults.top_k if self.top_k is None else self.top_k
        return Sampling(
            max_tokens=self.limit(room, defaults),
            temperature=temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=max(0, top_k),
            seed=None if self.seed is None else self.seed + index,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            end_ids=frozenset() if self.ignore_eos else end_ids,
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            logprobs=self.logprob_count,
            include_stop=self.include_stop_str_in_output,
            skip_special_tokens=self.skip_special_tokens,
            penalties=Penalties(
                self.presence_penalty or 0.0,
                self.frequency_penalty or 0.0,
                self.repetition_penalty or 1.0,
            ),
        )


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", "needs `logprobs` to be true")
        self._check_tools()
        steered = RUN_OPTIONS.intersection(self.chat_template_kwargs or ())
        if steered:
            raise refused("chat_template_kwargs", f"may not set {', '.join(sorted(steered))}")
        if self.add_generation_prompt and self.continue_final_message:
            raise refused("continue_final_message", "excludes `add_generation_prompt`")
        for message in self.messages:
            if not isinstance(message.get("role"), str):
                raise refused("messages", "every message needs a role")
        return self

    def _check_tools(self) -> None:
        for tool in self.tools or ():
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise refused("tools", "every tool is a function with a name")
        choice = self.tool_choice
        if choice not in (None, "none", "auto", "required") and self.chosen_tool is None:
            raise refused("tool_choice", "is none, auto, required or a function by name")
        names = [tool["function"]["name"] for tool in self.tools or ()]
        if self.chosen_tool is not None and self.chosen_tool not in names:
            raise refused("tool_choice", "does not match any of the specified `tools`")
        if choice in ("auto", "required") and not names:
            raise refused("tool_choice", "needs `tools`")

    @property
    def chosen_tool(self) -> str | None:
        """The function that `tool_choice` names."""
        choice = self.tool_choice
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) else None

    @property
    def tool_reading(self) -> Literal["off", "auto", "forced"]:
        """Whether the answer's text is read for tool calls, or must be one."""
        if not self.tools or self.tool_choice == "none":
            return "off"
        return "auto" if self.tool_choice in (None, "auto") else "forced"

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        if self.tool_reading == "forced":
            return call_schema(self.tools or (), self.chosen_tool)
        return super().schema_of_answer

    @property
    def logprob_count(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def limit(self, room: int, defaults: Defaults) -> int:
        wanted = self.max_completion_tokens or self.max_tokens or defaults.max_tokens
        return min(room, wanted) if wanted else room


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: str | TokenIds | list[str] | list[TokenIds]
    max_tokens: Count | None = 16
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _no_echo(self) -> "CompletionRequest":
        if self.echo:
            raise refused("echo", "not supported by the local model server")
        if not self.prompt:
            raise refused("prompt", "must not be empty")
        if len(self.prompts) * self.answers > MAX_ANSWERS:
            raise refused("prompt", f"prompts times `n` is at most {MAX_ANSWERS}")
        return self

    @property
    def logprob_count(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several prompts, each text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class LoadAdapter(Body):
    """POST /v1/load_lora_adapter."""

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class UnloadAdapter(Body):
    """POST /v1/unload_lora_adapter."""

    lora_name: str = ""


class TokenizeRequest(Body):
    """POST /tokenize: a prompt or messages."""

    model: Name | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True


def _is_shallow(value: Any) -> bool:
    """Whether objects and lists are within each other to `MAX_DEPTH` at most."""
    level, depth = [value], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            return False
        level = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
    return True

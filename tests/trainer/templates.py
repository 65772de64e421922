"""Chat templates of real models on a small byte tokenizer, and conversations of every shape."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SHIPPED = Path(next(iter(find_spec("trl").submodule_search_locations))) / "chat_templates"  # type: ignore[union-attr,arg-type]

_SPECIAL = re.compile(
    r"<\|?[A-Za-z_\u2581]+(?:[_\u2581]?[a-z]*)?\|?>|<[|\uff5c][^|\uff5c<>]+[|\uff5c]>"
)
STOPS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>",),
    "deepseek": ("<\uff5cend\u2581of\u2581sentence\uff5c>",),
    "gemma4": ("<turn|>", "<|tool_response>"),
    "diffusion_gemma": ("<turn|>", "<|tool_response>"),
    "gemma": ("<end_of_turn>",),
    "glm": ("<|endoftext|>", "<|user|>", "<|observation|>"),
    "gptoss": ("<|return|>", "<|call|>"),
    "llama": ("<|eot_id|>", "<|eom_id|>"),
    "muse": ("<|eot|>",),
    "phi": ("<|end|>", "<|endoftext|>"),
}
CHATML = ("<|im_end|>",)
PICTURES = ("idefics3", "llava_next", "smolvlm")
"""Older templates of vision models, which hold a picture per question."""


def stops_of(name: str) -> tuple[str, ...]:
    """The tokens that end an answer of that model family."""
    return next((stops for family, stops in STOPS.items() if name.startswith(family)), CHATML)


def shipped() -> list[str]:
    """The names of TRL's templates of models, those adapted to training left out."""
    names = sorted(path.stem for path in SHIPPED.glob("*.jinja"))
    return [each for each in names if not each.endswith("_training") and each not in PICTURES]


def template(name: str) -> str:
    """The template that TRL ships under that name."""
    return (SHIPPED / f"{name}.jinja").read_text()


def make_tokenizer(text: str, stops: tuple[str, ...]) -> Any:
    """A tokenizer of bytes, in which two newlines are one token, with that chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "\u010a\u010a"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\u010a", "\u010a")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    marks = sorted({*_SPECIAL.findall(text), *stops} - {"<think>", "</think>"})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token=stops[0],
        pad_token="<pad>",
        additional_special_tokens=[m for m in marks if m not in (stops[0], "<bos>", "<pad>")],
    )
    tokenizer.chat_template = text
    return tokenizer


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Name."}},
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Turin"}'},
}
USER = {"role": "user", "content": "warm in Turin?"}
CALLED: list[dict[str, Any]] = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "18"},
]
ANSWER = {"role": "assistant", "content": "It is 18 degrees."}
THOUGHT = {**ANSWER, "reasoning": "Turin is warm."}
SHAPES: dict[str, tuple[list[dict[str, Any]], Any, dict[str, Any]]] = {
    "single": ([USER], None, ANSWER),
    "system": ([{"role": "system", "content": "Be brief."}, USER], None, ANSWER),
    "developer": ([{"role": "developer", "content": "Be brief."}, USER], None, ANSWER),
    "multi_turn": (
        [USER, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "How?"}],
        None,
        ANSWER,
    ),
    "parts": (
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "warm"}, {"type": "text", "text": "?"}],
            }
        ],
        None,
        ANSWER,
    ),
    "tools": ([USER], TOOLS, ANSWER),
    "tool_call": ([USER], TOOLS, {"role": "assistant", "content": None, "tool_calls": [CALL]}),
    "text_and_call": (
        [USER],
        TOOLS,
        {"role": "assistant", "content": "I look it up.", "tool_calls": [CALL]},
    ),
    "tool_result": (CALLED, TOOLS, ANSWER),
    "thinking_kept": ([USER], None, THOUGHT),
    "thinking_stripped": ([USER], None, THOUGHT),
    "thinking_off": ([USER], None, ANSWER),
}

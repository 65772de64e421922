"""LiteLLM and PydanticAI, unchanged, see the same through the gateway as direct: whole, streamed,
with tools, and their errors."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import ModelHTTPError, ModelRequest, ToolDefinition
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.gateway.backend import backend
from tests.gateway.door import door
from tests.gateway.rich import rich

# Of a library's own making, and none of ours.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]

PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"sql": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "run", "parameters": PARAMETERS}}]
MESSAGES: Any = [{"role": "user", "content": "größe 漢字 🙂?"}]


async def _litellm(base_url: str) -> list[Any]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet at import
    import litellm

    common: Any = {
        "model": "openai/text2sql", "api_base": base_url, "api_key": "k", "messages": MESSAGES,
        "max_retries": 0,
    }  # fmt: skip
    seen = [(await litellm.acompletion(**common, tools=TOOLS, n=2)).model_dump()]
    stream = await litellm.acompletion(
        **common, tools=TOOLS, stream=True, stream_options={"include_usage": True}
    )
    seen += [part.model_dump() async for part in stream]
    stream = await litellm.acompletion(**common, stream=True)
    seen += [part.model_dump() async for part in stream]
    embedded = await litellm.aembedding(
        model="openai/text2sql", api_base=base_url, api_key="k", input=["a", "b"]
    )
    seen.append(embedded.model_dump())
    with pytest.raises(litellm.BadRequestError) as failure:
        await litellm.acompletion(**{**common, "messages": []})
    return [_constant(one) for one in seen] + [failure.value.status_code, str(failure.value)]


async def _pydantic_ai(base_url: str) -> list[Any]:
    provider = OpenAIProvider(base_url=base_url, api_key="k")
    parameters = ModelRequestParameters(
        function_tools=[ToolDefinition(name="run", parameters_json_schema=PARAMETERS)]
    )
    asked: Any = [ModelRequest.user_text_prompt("größe 漢字 🙂?")]
    seen: list[Any] = []
    for model in (
        OpenAIChatModel("text2sql", provider=provider),
        OpenAIResponsesModel("text2sql", provider=provider),
    ):
        got = await model_request(model, asked, model_request_parameters=parameters)
        seen += [repr(part) for part in got.parts] + [repr(got.usage), got.finish_reason]
        streamed = model_request_stream(model, asked, model_request_parameters=parameters)
        async with streamed as events:
            seen += [repr(event) async for event in events]
            seen.append(repr(events.usage))
    with pytest.raises(ModelHTTPError) as failure:
        await model_request(OpenAIChatModel("text2sql", provider=provider), [])
    return [*seen, failure.value.status_code, failure.value.body]


def _constant(value: Any) -> Any:
    """Without what the library makes up anew for every answer."""
    if isinstance(value, dict):
        return {key: _constant(one) for key, one in value.items() if key not in ("created", "id")}
    return [_constant(one) for one in value] if isinstance(value, list) else value


async def test_litellm_sees_no_difference(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        direct = await _litellm(upstream.url)
        assert await _litellm(f"{gate.url}/v1") == direct
        assert len(direct) > 10


async def test_pydantic_ai_sees_no_difference(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        direct = await _pydantic_ai(upstream.url)
        assert await _pydantic_ai(f"{gate.url}/v1") == direct
        assert len(direct) > 15

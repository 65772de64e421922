"""The real SDKs, unchanged, see the same through the gateway as direct."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from tests.gateway.backend import backend
from tests.gateway.door import door
from tests.gateway.rich import rich

pytestmark = pytest.mark.anyio

NODE = Path(__file__).parents[1] / "clients" / "node"
MODEL = "text2sql"
MESSAGES: Any = [{"role": "user", "content": "größe 漢字 🙂?"}]


async def _python(base_url: str) -> list[Any]:
    """Everything the Python SDK is told."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0) as client:
        seen: list[Any] = []
        chat = client.chat.completions
        seen.append(await chat.create(model=MODEL, messages=MESSAGES, n=2, logprobs=True))
        options: Any = {"include_usage": True}
        stream = await chat.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options=options
        )
        seen += [part async for part in stream]
        seen.append(await client.completions.create(model=MODEL, prompt="a"))
        text = await client.completions.create(model=MODEL, prompt="a", stream=True)
        seen += [part async for part in text]
        seen.append(await client.embeddings.create(model=MODEL, input=["a", "b"]))
        seen.append(await client.embeddings.create(model=MODEL, input="a", encoding_format="float"))
        seen.append(await client.responses.create(model=MODEL, input="a"))
        events = await client.responses.create(model=MODEL, input="a", stream=True)
        seen += [part async for part in events]
        with pytest.raises(openai.BadRequestError) as failure:
            await chat.create(model=MODEL, messages=[])
        error = failure.value
        return [
            *(part.model_dump() for part in seen),
            [error.status_code, error.code, error.param, error.message],
        ]


async def test_the_python_sdk_sees_no_difference(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        direct = await _python(upstream.url)
        through = await _python(f"{gate.url}/v1")
        assert through == direct
        assert len(direct) > 20


async def test_the_python_sdk_raises_its_own_errors(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        gate.service.__dict__["default_upstream"] = None
        async with openai.AsyncOpenAI(
            base_url=f"{gate.url}/v1", api_key="k", max_retries=0
        ) as client:
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.chat.completions.create(model="nobody", messages=MESSAGES)
            models = [model.id async for model in client.models.list()]
            assert models == ["text2sql"]
            answer = await client.chat.completions.with_raw_response.create(
                model=MODEL, messages=MESSAGES
            )
            assert answer.headers["x-everlearn-id"] == gate.completions()[-1].completion_id


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node SDK, installed by its lock."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "ask.mjs"):
        shutil.copy(NODE / name, folder)
    return folder


async def _run(folder: Path, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()[-2000:]
    return out.decode()


async def test_the_node_sdk_sees_no_difference(tmp_path: Path, node_folder: Path) -> None:
    await _run(node_folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        direct = await _run(node_folder, "node", "ask.mjs", upstream.url)
        through = await _run(node_folder, "node", "ask.mjs", f"{gate.url}/v1")
        assert through == direct
        rows = [json.loads(row) for row in direct.splitlines()]
        assert len(rows) > 15
        assert rows[-1][:2] == ["BadRequestError", 400]


async def _langchain(base_url: str) -> list[Any]:
    async with httpx.AsyncClient() as http:
        both: dict[str, Any] = {
            "base_url": base_url, "api_key": SecretStr("k"), "http_async_client": http,
        }  # fmt: skip
        chat = ChatOpenAI(model=MODEL, max_retries=0, **both)
        seen: list[Any] = [(await chat.ainvoke([HumanMessage("a")])).model_dump()]
        seen += [part.model_dump() async for part in chat.astream([HumanMessage("a")])]
        vectors = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **both)
        seen.append(await vectors.aembed_documents(["a", "b"]))
        return [_without_run_ids(one) for one in seen]


def _without_run_ids(value: Any) -> Any:
    """LangChain gives every run an id of its own."""
    if isinstance(value, dict):
        return {
            key: _without_run_ids(one)
            for key, one in value.items()
            if not (key == "id" and str(one).startswith(("lc_run", "run-")))
        }
    return [_without_run_ids(one) for one in value] if isinstance(value, list) else value


async def test_langchain_sees_no_difference(tmp_path: Path) -> None:
    async with backend(rich) as upstream, door(tmp_path, upstream.url) as gate:
        direct = await _langchain(upstream.url)
        assert await _langchain(f"{gate.url}/v1") == direct
        assert len(direct) > 5

"""Authority comes from the key: role by route by field, every cell; and what has no key at all."""

import asyncio
import itertools
import time
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from click.testing import CliRunner

from everlearn.cli.gateway import command as gateway_verb
from everlearn.config import Gateway, Key, Role
from everlearn.errors import ConfigError
from everlearn.events import Author
from everlearn.ids import new_id
from everlearn.keys import create_key, revoke_key
from everlearn.state import open_state
from gateway.authority import name_of, names_units, refusal
from gateway.feedback import FeedbackIn
from tests.builders import make_service, sha256
from tests.gateway.backend import STREAM_HEAD, Call, backend, chat_chunk, chunk
from tests.gateway.door import CHAT, Door, door, write_task

pytestmark = pytest.mark.anyio

ALL: tuple[Role, ...] = get_args(Role)
AUTHORS: tuple[Author, ...] = get_args(Author)
SPEAKS_AS: dict[str, set[str]] = {
    "client": {"end_user"},
    "expert": {"end_user", "expert"},
    "judge": {"end_user", "judge"},
    "service": {"end_user", "judge", "code"},
    "viewer": set(),
    "operator": {"end_user", "expert", "judge", "code"},
}
NAMES = ("nobody", "itself", "another")
KINDS = ("binary", "correction", "retraction")


def may(role: str, speaks: bool, author: str, name: str) -> bool:
    """What the matrix must say, in the plainest words."""
    if author not in SPEAKS_AS[role]:
        return False
    return name != "another" or role == "operator" or (speaks and author == "end_user")


def make_key(role: Role, *, speaks: bool = False, **fields: Any) -> Key:
    name = f"{role}-speaks" if speaks else role
    return Key(
        id=name, sha256=sha256(name), role=role, may_speak_for="users" if speaks else None, **fields
    )


KEYS = [make_key(role, speaks=speaks) for role in ALL for speaks in (False, True)]


def piece(key: Key, author: str, name: str, kind: str) -> dict[str, Any]:
    said: dict[str, Any] = {"completion_id": "cmpl_1", "kind": kind, "author": author}
    if name != "nobody":
        said["author_id"] = key.id if name == "itself" else "ann"
    if kind != "retraction":
        said["value"] = True if kind == "binary" else "better"
    return said


CELLS = list(itertools.product(KEYS, AUTHORS, NAMES, KINDS))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.id)
def test_every_cell_of_who_may_say_what(key: Key) -> None:
    for _, author, name, kind in (cell for cell in CELLS if cell[0] == key):
        said = FeedbackIn.model_validate(piece(key, author, name, kind))
        reason = refusal(key, said)
        allowed = may(key.role, key.may_speak_for == "users", author, name)
        assert (reason is None) == allowed, (author, name, kind, reason)
        assert reason is None or key.id in reason
        if allowed and name == "nobody":
            unnamed = author == "end_user" and key.may_speak_for == "users"
            assert name_of(key, said) == (None if unnamed else key.id)


def test_without_any_key_every_author_is_believed() -> None:
    for author, name, kind in itertools.product(AUTHORS, NAMES, KINDS):
        said = FeedbackIn.model_validate(piece(KEYS[0], author, name, kind))
        assert refusal(None, said) is None
        assert name_of(None, said) == said.author_id


def config(keys: list[Key]) -> list[dict[str, Any]]:
    return [key.model_dump(mode="json") for key in keys]


def bearer(key: Key) -> dict[str, str]:
    return {"authorization": f"Bearer {key.id}"}


async def tell(gate: Door, key: Key, body: Any) -> httpx.Response:
    return await gate.client.post("/v1/feedback", json=body, headers=bearer(key))


async def test_the_door_holds_the_matrix_and_stores_nothing_of_what_it_refuses(
    tmp_path: Path,
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config(KEYS)) as gate:
        kept = 0
        for key, author, name, kind in CELLS:
            answer = await tell(gate, key, piece(key, author, name, kind))
            allowed = may(key.role, key.may_speak_for == "users", author, name)
            assert answer.status_code == (202 if allowed else 403), (key.id, author, name, kind)
            if not allowed:
                assert answer.json()["error"]["code"] == "not_allowed"
            kept += allowed
        events = gate.feedback()
        assert len(events) == kept
        assert all(event.key_id for event in events)
        experts = [event for event in events if event.author == "expert"]
        assert {event.author_id for event in experts} >= {"expert", "expert-speaks"}
        assert all(event.author_id for event in experts)


async def test_one_piece_too_bold_refuses_the_whole_array(tmp_path: Path) -> None:
    key = make_key("client")
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config([key])) as gate:
        pieces = [piece(key, author, "nobody", "binary") for author in ("end_user", "expert")]
        answer = await tell(gate, key, pieces)
        assert answer.status_code == 403
        assert "'expert' needs a key of role expert or operator" in answer.text
        assert gate.feedback() == []


@pytest.mark.parametrize("role", [role for role in ALL if role != "viewer"])
@pytest.mark.parametrize("speaks", [False, True])
async def test_who_names_a_unit(tmp_path: Path, role: Role, speaks: bool) -> None:
    key = make_key(role, speaks=speaks)
    trusted = speaks or role == "operator"
    assert names_units(key) == trusted
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config([key])) as gate:
        named = await gate.chat({**bearer(key), "x-everlearn-unit": "victim"})
        assert named.status_code == (200 if trusted else 403)
        assert (await gate.chat(bearer(key), user="victim")).status_code == 200
        assert (await gate.chat(bearer(key))).status_code == 200
        units = [event.unit for event in gate.completions() if event.status == "ok"]
        assert ("victim" in units) == trusted
        assert trusted or f"{key.id}/victim" in units


async def test_who_only_looks_asks_nothing(tmp_path: Path) -> None:
    key = make_key("viewer")
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config([key])) as gate:
        for path in ("chat/completions", "completions", "embeddings", "responses", "rerank"):
            asked = {**CHAT, "prompt": "x", "input": "x"}
            answer = await gate.client.post(f"/v1/{path}", json=asked, headers=bearer(key))
            assert (answer.status_code, path) == (403, path)
        said = {"completion_id": "a", "value": True}
        assert (await tell(gate, key, said)).status_code == 403
        assert upstream.calls == []
        assert gate.feedback() == []


async def test_idempotency_keys_of_two_owners_do_not_meet(tmp_path: Path) -> None:
    keys = [make_key("client", speaks=True), make_key("service", speaks=True)]
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config(keys)) as gate:
        thumb = {"completion_id": "a", "value": True, "author_id": "u", "idempotency_key": "k"}
        told = [(await tell(gate, key, thumb)).json()["status"] for key in (*keys, *keys)]
        assert told == ["accepted", "accepted", "duplicate", "duplicate"]


async def test_limits_of_a_key_hold_for_its_feedback(tmp_path: Path) -> None:
    key = make_key("client", requests_per_minute=600)
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config([key])) as gate:
        pieces = [{"completion_id": f"c{number}", "value": True} for number in range(1000)]
        answers = [await tell(gate, key, pieces) for _ in range(20)]
        taken = sum(answer.status_code == 202 for answer in answers)
        assert taken == 1
        assert {answer.status_code for answer in answers} == {202, 429}
        assert int(answers[-1].headers["retry-after"]) > 30
        assert len(gate.feedback()) == 1000


async def test_a_key_limited_to_tasks_leaves_its_scope_with_what_it_says(tmp_path: Path) -> None:
    key = make_key("expert", tasks=("text2sql",))
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config([key])) as gate:
        assert (await tell(gate, key, {"completion_id": "a", "value": True})).status_code == 202
        [event] = gate.feedback()
        assert (event.key_id, event.key_tasks) == ("expert", "text2sql")


def said_of(one: str, other: str) -> list[dict[str, Any]]:
    """Every way to speak of a completion; of `other` only where it takes two."""
    return [
        {"completion_id": one, "value": True},
        {"completion_id": one, "value": "better", "kind": "correction"},
        {"completion_id": one, "kind": "retraction"},
        {"completion_id": one, "value": True, "idempotency_key": "once"},
        {"preferred": one, "other": other},
        {"preferred": other, "other": one},
    ]


@pytest.mark.parametrize("role", [role for role in ALL if role != "viewer"])
async def test_a_key_limited_to_tasks_speaks_of_their_completions_alone(
    tmp_path: Path, role: Role
) -> None:
    limited, free = make_key(role, tasks=("text2sql", "sums")), make_key("client", speaks=True)
    for name in ("text2sql", "support"):
        write_task(tmp_path, name)
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, task=False, keys=config([limited, free])) as gate,
    ):
        asked: list[dict[str, Any]] = [
            {"model": "text2sql"}, {"model": "support"}, {"model": "base"},
            {"model": "support", "stream": True},
        ]  # fmt: skip
        answers = [await gate.chat(bearer(free), **fields) for fields in asked]
        passed, by = {"model": "support"}, bearer(free)
        answers.append(await gate.client.post("/tokenize", json=passed, headers=by))
        own, *foreign = [answer.headers["x-everlearn-id"] for answer in answers]
        assert [own, *foreign] == [event.completion_id for event in gate.completions()]
        told = [one for each in foreign for one in said_of(each, own)]
        for one in told:
            answer = await tell(gate, limited, one)
            assert answer.status_code == 403, one
            assert "speaks of text2sql, sums only" in answer.json()["error"]["message"]
            assert (await tell(gate, limited, [*said_of(own, own), one])).status_code == 403
        assert gate.feedback() == []
        assert {(await tell(gate, free, one)).status_code for one in told} == {202}
        unmarked = new_id("cmpl")
        for name in (own, unmarked, "chatcmpl-1"):
            for each in said_of(name, own):
                assert (await tell(gate, limited, each)).status_code == 202


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_nobody_speaks_without_a_key_once_there_is_one(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    keys = config([make_key("client")])
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        told = await gate.client.post(
            "/v1/feedback", json={"completion_id": "a", "value": True}, headers=headers
        )
        assert told.status_code == 401
        assert gate.feedback() == []
        assert (await gate.client.get("/health")).json()["authority"] == "keys"


LOCAL = ["localhost", "localhost:8000", "127.0.0.1:9", "127.8.8.8", "[::1]:8000", "app.localhost"]
FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.7", "localhost.",
           "[::2]", "", "@127.0.0.1@evil.example", "localhost:x.evil"]  # fmt: skip
ROUTES = [("POST", "/v1/chat/completions"), ("POST", "/v1/feedback"), ("GET", "/v1/models"),
          ("POST", "/v1/responses"), ("POST", "/v1/rerank")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_gateway_without_keys_answers_this_machine_alone(
    tmp_path: Path, method: str, path: str
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        body = {"completion_id": "a", "value": True} if path.endswith("feedback") else CHAT
        content = None if method == "GET" else body

        async def ask(**headers: str) -> int:
            sent = await gate.client.request(method, path, json=content, headers=headers)
            return sent.status_code

        for host in LOCAL:
            assert await ask(host=host) != 403, host
        for host in FOREIGN:
            assert await ask(host=host) in (400, 403), host
        assert await ask(origin="http://localhost:3000") != 403
        for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
            assert await ask(origin=origin) == 403, origin
        told = await gate.client.post(
            "/v1/feedback", json={"completion_id": "a", "value": True, "author": "expert"}
        )
        assert told.status_code == 202
        assert (await gate.client.get("/health")).json()["authority"] == "open"


async def test_a_site_that_the_config_names_may_ask(tmp_path: Path) -> None:
    cors = {"allowed_origins": ["https://app.example"]}
    async with backend() as upstream, door(tmp_path, upstream.url, cors=cors) as gate:
        assert (await gate.chat({"origin": "https://app.example"})).status_code == 200
        assert (await gate.chat({"origin": "https://evil.example"})).status_code == 403


async def test_with_keys_any_host_and_origin_may_ask(tmp_path: Path) -> None:
    key = make_key("client")
    async with backend() as upstream, door(tmp_path, upstream.url, keys=config([key])) as gate:
        headers = {**bearer(key), "host": "llm.example", "origin": "https://app.example"}
        assert (await gate.chat(headers)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "llm.example"])
def test_no_other_machine_reaches_a_gateway_that_asks_for_no_key(host: str) -> None:
    refused: list[dict[str, Any]] = [
        {}, {"require_key": False}, {"require_key": False, "keys": [KEYS[0]]},
    ]  # fmt: skip
    for settings in refused:
        with pytest.raises(ValueError, match="require_key"):
            Gateway(host=host, **settings)
    allowed: list[dict[str, Any]] = [
        {"require_key": True}, {"keys": [KEYS[0]]}, {"insecure": True},
    ]  # fmt: skip
    for settings in allowed:
        assert Gateway(host=host, **settings).host == host


def test_it_ends_with_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        make_service(tmp_path, gateway={"host": "0.0.0.0"})
    assert error.value.exit_code == 2
    for word in ("gateway", "0.0.0.0", "everlearn keys create", "insecure"):
        assert word in str(error.value)
    done = CliRunner().invoke(gateway_verb, ["--config", str(tmp_path / "everlearn.yaml")])
    assert isinstance(done.exception, ConfigError)


async def test_a_key_revoked_in_mid_stream_ends_at_the_next_request(tmp_path: Path) -> None:
    revoked = asyncio.Event()

    async def slow(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(chat_chunk("SEL")))
        await writer.drain()
        await revoked.wait()
        writer.write(chunk(chat_chunk(None, "stop")) + chunk(b"data: [DONE]\n\n") + chunk(b""))

    with closing(open_state(make_service(tmp_path))) as state:
        headers = {"authorization": f"Bearer {create_key(state, time.time(), id='app')}"}
        async with backend(slow) as upstream, door(tmp_path, upstream.url) as gate:
            body = {**CHAT, "stream": True}
            async with gate.client.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as stream:
                lines = stream.aiter_lines()
                first = await anext(lines)
                revoke_key(state, "app", time.time())
                async with asyncio.timeout(10):
                    said = {"completion_id": "a", "value": True}
                    while (
                        await gate.client.post("/v1/feedback", json=said, headers=headers)
                    ).is_success:
                        await asyncio.sleep(0.05)
                revoked.set()
                rest = [line async for line in lines]
            assert "SEL" in first
            assert "data: [DONE]" in rest
            assert (await gate.chat(headers)).status_code == 401
            assert [event.status for event in gate.completions()] == ["ok", "rejected"]

"""endpoint: the product's own API gives the score; whatever else it gives is unscored."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from evaluators.bulk import grade
from evaluators.types import Sample, Score
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_grader, make_task, verdict
from tests.evaluators.judge_server import JudgeServer, judge_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


@pytest.fixture
def product(server: JudgeServer) -> JudgeServer:
    server.requests.clear()
    return server


def endpoint(product: JudgeServer, **fields: Any) -> Any:
    url = f"{product.address}/chat/completions"
    return make_grader(type="endpoint", **{"url": url, "timeout_seconds": 5, **fields})


async def asked(product: JudgeServer, **fields: Any) -> Score:
    grader = endpoint(product, **fields)
    try:
        return await verdict(grader, "answer")
    finally:
        await grader.aclose()


async def test_item_and_sample_go_there_and_a_score_comes_back(
    product: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORE_API_AUTH", "Bearer secret")
    product.answer = lambda _: JSONResponse({"score": 0.7, "reason": "booked", "more": 1})
    grader = endpoint(product, headers_env={"Authorization": "SCORE_API_AUTH"}, pass_threshold=0.5)
    found = await verdict(
        grader, '{"seat": 4}', prompt="book", reference="4", metadata={"cart": "c1"}, arm="champion"
    )
    assert (found.value, found.reason, found.label) == (0.7, "booked", "pass")
    assert product.headers["authorization"] == "Bearer secret"
    sent = product.requests[0]
    assert sent["sample"]["output_json"] == {"seat": 4}
    assert sent["item"] == {
        "messages": None, "prompt": "book", "tools": None, "reference": "4",
        "metadata": {"cart": "c1"},
    }  # fmt: skip
    assert found.cost["seconds"] > 0
    await grader.aclose()


@pytest.mark.parametrize(
    ("body", "value"), [("0.25", 0.25), ("1", 1.0), ("true", 1.0), ('{"score": 0}', 0.0)]
)
async def test_a_bare_number_is_a_score_too(product: JudgeServer, body: str, value: float) -> None:
    product.answer = lambda _: Response(body, media_type="application/json")
    found = await asked(product)
    assert (found.value, found.error) == (value, None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            HTMLResponse("<html><title>Log in</title></html>"),
            "answered text/html, which is no JSON",
        ),
        (HTMLResponse("<h1>no</h1>", 403), "answered 403: '<h1>no</h1>'"),
        (JSONResponse({"score": 1.5}), "'1.5' is no number from 0 to 1"),
        (JSONResponse({"score": "good"}), "'good' is no number"),
        (Response('{"score": NaN}'), "'nan' is no number"),
        (Response('{"score": 1e999}'), "'inf' is no number"),
        (JSONResponse({"points": 1}), "has no score"),
        (JSONResponse([1]), "is no number"),
        (Response("[" * 100_000), "no JSON"),
        (Response("x" * 300_000), "more than 262144 bytes"),
        (Response(b"", 204), "answered 204"),
        (RedirectResponse("http://169.254.169.254/latest/meta-data"), "which is not followed"),
        (RedirectResponse("/v1/embeddings", 302), "which is not followed"),
    ],
)
async def test_what_is_no_score_leaves_the_answer_unscored(
    product: JudgeServer, answer: Response, error: str
) -> None:
    product.answer = lambda _: answer
    found = await asked(product)
    assert found.value is None
    assert error in (found.error or "")
    assert len(product.requests) == 1


async def test_no_score_yet_is_no_failure(product: JudgeServer) -> None:
    product.answer = lambda _: JSONResponse({"score": None, "reason": "not shipped yet"})
    found = await asked(product)
    assert (found.value, found.reason, found.error) == (None, "not shipped yet", None)


async def test_a_busy_endpoint_is_asked_again_and_a_down_one_is_told(product: JudgeServer) -> None:
    replies = iter([Response("", 503), Response("", 429, {"retry-after": "0.1"}), JSONResponse(1)])
    product.answer = lambda _: next(replies)
    assert (await asked(product)).value == 1.0
    product.answer = lambda _: Response("", 502)
    found = await asked(product)
    assert (found.value, found.error) == (None, "the endpoint answered 502, 3 times")
    gone = await asked(product, url="http://127.0.0.1:9/score")
    assert "could not be reached: ConnectError, 3 times" in (gone.error or "")


async def test_a_slow_endpoint_and_a_long_wait_end_with_the_time(product: JudgeServer) -> None:
    product.answer = lambda _: Response("", 429, {"retry-after": "30"})
    started = time.monotonic()
    found = await asked(product, timeout_seconds=0.3)
    assert found.error == "the endpoint gave no score in 0.3 s"
    assert time.monotonic() - started < 5


async def test_the_rate_is_kept_by_all_that_are_in_flight(product: JudgeServer) -> None:
    product.answer = lambda _: JSONResponse(1)
    grader = endpoint(product, requests_per_second=20)
    started = time.monotonic()
    scores = await grade([grader], [(Sample("x"), {})] * 9)
    assert [row[0].value for row in scores] == [1.0] * 9
    assert time.monotonic() - started >= 8 / 20
    await grader.aclose()


async def test_a_header_whose_variable_is_not_set_is_named(product: JudgeServer) -> None:
    found = await asked(product, headers_env={"X-Key": "NOT_SET_ANYWHERE"})
    assert found.error == "$NOT_SET_ANYWHERE is not set: header X-Key of the endpoint"
    assert product.requests == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/x", "//host/x", "http://", "http://user:word@host/score",
     "https://{{ item.metadata.host }}/score", "http://[::1/x", "gopher://host"],
)  # fmt: skip
async def test_only_one_fixed_http_address_is_taken(url: str) -> None:
    with pytest.raises(ConfigError, match="one fixed http"):
        make_grader(type="endpoint", url=url)


async def test_what_is_sent_decides_when_it_is_asked_again(tmp_path: Path) -> None:
    plain = make_grader(type="endpoint", url="http://host/x", send=["prompt"])
    assert (plain.needs_reference, plain.needs_feedback) == (False, False)
    both = make_grader(type="endpoint", url="http://host/x", send=["reference", "thumbs"])
    assert (both.needs_reference, both.needs_feedback) == (True, True)
    task = make_task(tmp_path, {"name": "shipped", "type": "endpoint", "url": "http://host/x"})
    assert task.grader("shipped").type == "endpoint"

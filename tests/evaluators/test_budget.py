"""A day's money for judges: counted over processes, and nothing but judging stops with it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from click.testing import CliRunner
from fastapi.testclient import TestClient

from console.app import create_app
from evaluators.definition import parse
from evaluators.graders import build, check
from evaluators.judge.budget import SPENT, Budget, BudgetSpent, Spending, budget_of, spending
from evaluators.route import payer
from evaluators.run import EvaluateReport, evaluate
from everlearn.cli.grade import command as grade
from everlearn.cli.judges import command as judges
from everlearn.cli.status import command as status
from everlearn.config import load
from everlearn.errors import ConfigError
from everlearn.state import open_state
from everlearn.task import Task
from tests.builders import FakeClock, make_service
from tests.evaluators.graders import make_task, verdict
from tests.evaluators.judge_server import JudgeServer, answers, judge_server, says
from tests.evaluators.lake import Rows

PRICE = {"completion_per_million": 10_000.0}
COST = 0.04
"""Of the test server's 4 completion tokens; what a prompt costs is not looked at, since its words
may change."""
JUDGE = {
    "name": "judge", "type": "score_model", "model": "m", "timeout_seconds": 5,
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    "sampling_params": {"max_completions_tokens": 4},
}  # fmt: skip
CHECK = {
    "name": "check", "type": "string_check", "operation": "ilike",
    "input": "{{ sample.output_text }}", "reference": "answer",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as running:
        yield running


class Bench:
    """Answers to judge, and a judge that costs."""

    def __init__(self, folder: Path, server: JudgeServer) -> None:
        server.requests.clear()
        server.answer = says("1")
        self.server = server
        upstream = {"base_url": server.address, "kind": "openai", "price": PRICE}
        self.rows = Rows(folder)
        self.service = make_service(folder, upstreams={"local": upstream})

    def task(self, limit: float | None, *graders: dict[str, Any]) -> Task:
        rules = {"max_cost_per_day": limit}
        return make_task(self.service.root, *(graders or (CHECK, JUDGE)), judges=rules)

    def evaluate(self, limit: float | None, *graders: dict[str, Any]) -> EvaluateReport:
        return evaluate(self.service, self.task(limit, *graders), self.rows.lake)

    def spent(self, limit: float) -> Spending:
        with closing(open_state(self.service)) as state:
            found = spending(state, self.task(limit))
        assert found is not None
        return found

    def the_next_day(self) -> None:
        """What was spent today was spent long ago."""
        with closing(open_state(self.service)) as state, state.transaction() as connection:
            connection.execute(sa.text("UPDATE judge_spending SET day = '2026-01-01'"))


@pytest.fixture
def bench(tmp_path: Path, server: JudgeServer) -> Iterator[Bench]:
    made = Bench(tmp_path, server)
    yield made
    made.rows.lake.close()


def test_what_the_day_has_no_money_for_is_unscored_and_everything_else_is_scored(
    bench: Bench,
) -> None:
    for number in range(5):
        bench.rows.answered("q", f"answer {number}")
    report = bench.evaluate(0.11)
    assert report.graders["check"].scored == 5
    assert (report.graders["judge"].scored, report.graders["judge"].unscored) == (2, 3)
    [reason] = report.graders["judge"].reasons
    assert reason.startswith(f"{SPENT} = 0.11 of task text2sql is spent")
    assert len(bench.server.requests) == 2
    found = bench.spent(0.11)
    assert (found.questions, found.closed) == (2, True)
    assert found.spent == pytest.approx(2 * COST)


def test_what_was_refused_is_judged_when_there_is_money_again_and_not_before(bench: Bench) -> None:
    for number in range(5):
        bench.rows.answered("q", f"answer {number}")
    assert bench.evaluate(0.11).graders["judge"].scored == 2
    for _ in range(7):  # more often than a judge that fails would be asked
        assert bench.evaluate(0.11).completions == 0
    bench.rows.answered("q", "answer that is new")
    assert bench.evaluate(0.11).graders["judge"].unscored == 1
    assert len(bench.server.requests) == 2
    bench.the_next_day()
    assert bench.evaluate(0.11).graders["judge"].scored == 2
    assert bench.evaluate(10.0).graders["judge"].scored == 2  # raised on the same day
    assert set(bench.rows.scores().values()) == {1.0}


def test_a_limit_that_is_taken_away_lets_the_rest_be_judged(bench: Bench) -> None:
    bench.rows.answered("q", "answer")
    assert bench.evaluate(0.001).graders["judge"].unscored == 1
    assert bench.evaluate(None).graders["judge"].scored == 1


def test_a_formula_waits_for_its_judges_money(bench: Bench) -> None:
    blend = {"name": "blend", "type": "multi", "calculate_output": "0.5 * judge + 0.5 * check"}
    bench.rows.answered("q", "answer")
    report = bench.evaluate(0.001, CHECK, JUDGE, blend)
    assert (report.graders["blend"].unscored, report.graders["check"].scored) == (1, 1)
    assert bench.evaluate(5.0, CHECK, JUDGE, blend).graders["blend"].scored == 1


def test_processes_share_one_sum(tmp_path: Path) -> None:
    service, taken, refused = make_service(tmp_path), [], []

    def process() -> None:
        budget = Budget(service, "text2sql", 10.0)
        for _ in range(5):
            try:
                taken.append(asyncio.run(budget.reserve(1.0)))
            except BudgetSpent:
                refused.append(1)
        asyncio.run(budget.aclose())

    threads = [threading.Thread(target=process) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (10, 10)


def test_a_day_that_is_closed_stays_closed_and_the_next_one_is_open(tmp_path: Path) -> None:
    clock = FakeClock()
    budget = Budget(make_service(tmp_path), "text2sql", 1.0, clock)

    async def ask(cost: float, paid: float) -> None:
        await budget.settle(await budget.reserve(cost), paid)

    asyncio.run(ask(0.9, 0.5))
    with pytest.raises(BudgetSpent, match=r"0\.5 on 2027-01-15"):
        asyncio.run(ask(0.6, 0.6))
    with pytest.raises(BudgetSpent):  # it would fit; but what was refused once is not tried again
        asyncio.run(ask(0.1, 0.1))
    clock.sleep(86_400)
    asyncio.run(ask(0.6, 0.6))
    asyncio.run(budget.aclose())


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        (says("1"), COST),
        (says("I like it"), COST),  # no verdict, and paid all the same
        (answers(500), 0.0),
        (answers(200, '{"choices": [{"message": {"content": "1"}}]}'), None),
    ],
)
async def test_a_question_costs_what_it_did(bench: Bench, answer: Any, paid: float | None) -> None:
    bench.server.answer = answer
    task = bench.task(1.0)
    grader = build(task.grader("judge"), task, bench.service)
    await verdict(grader, "answer")
    await verdict(grader, "answer")  # what a judge said once is not asked, or paid for, again
    await grader.aclose()
    spent = bench.spent(1.0).spent
    if paid is None:  # nobody says what it took: the guess stays
        assert 0.03 < spent < 0.1
    else:
        assert spent == pytest.approx(paid)


COSINE = {
    "name": "near", "type": "text_similarity", "evaluation_metric": "cosine",
    "embedding_model": "e", "input": "{{ sample.output_text }}", "reference": "reference",
}  # fmt: skip


def embeds(usage: Any) -> Any:
    rows = [{"index": n, "embedding": [1.0, n]} for n in range(2)]
    return answers(200, json.dumps({"data": rows, "usage": usage}))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        (embeds({"prompt_tokens": 7}), 0.07),
        (embeds(None), 0.04),  # 8 + 9 characters and nobody who counts them: the guess stays
        (answers(500), 0.0),
    ],
)
async def test_embeddings_cost_too(
    tmp_path: Path, server: JudgeServer, answer: Any, paid: float
) -> None:
    server.answer = answer
    upstream = {
        "base_url": server.address,
        "kind": "openai",
        "price": {"prompt_per_million": 10_000.0},
    }
    service = make_service(tmp_path, upstreams={"local": upstream})
    task = make_task(tmp_path, COSINE, judges={"max_cost_per_day": 1.0})
    grader = build(task.grader("near"), task, service)
    await verdict(grader, "response")
    await grader.aclose()
    with closing(open_state(service)) as state:
        found = spending(state, task)
    assert found is not None
    assert found.spent == pytest.approx(paid, abs=0.003)
    closed = make_task(tmp_path, COSINE, judges={"max_cost_per_day": 0.001})
    refused = await verdict(build(closed.grader("near"), closed, service), "response")
    assert (refused.value, (refused.error or "").startswith(SPENT)) == (None, True)


def test_a_grader_outside_a_task_is_paid_by_the_task_that_asks_its_model(bench: Bench) -> None:
    limited = {"max_cost_per_day": 1.0}
    tasks = {
        "a": make_task(bench.service.root, CHECK, task="a", judges=limited),
        "b": make_task(bench.service.root, JUDGE, task="b", judges=limited),
        "c": make_task(bench.service.root, COSINE, task="c", judges=limited),
        "d": make_task(bench.service.root, {**JUDGE, "model": "free"}, task="d"),
    }
    blend = {"type": "multi", "name": "x", "calculate_output": "judge", "graders": {"judge": JUDGE}}
    for spec, name in (
        (JUDGE, "b"),
        (blend, "b"),
        (COSINE, "c"),
        ({**JUDGE, "model": "free"}, "a"),
    ):
        found = payer(parse(spec), tasks)
        assert found is not None
        assert found.task == name
    assert payer(parse(JUDGE), {"d": tasks["d"]}) is None


def test_grade_and_the_consoles_route_spend_the_days_money(bench: Bench) -> None:
    content = bench.task(0.11).model_dump(mode="json", exclude={"folder"}, exclude_none=True)
    (bench.service.tasks_path / "text2sql.yaml").write_text(yaml.safe_dump(content))
    config = bench.service.root / "everlearn.yaml"
    file = bench.service.root / "judge.json"
    file.write_text(json.dumps(JUDGE))
    words = ["run", str(file), "--sample", "answer", "--config", str(config)]
    told = json.loads(CliRunner().invoke(grade, words).output)
    assert told["reward"] == 1.0
    assert bench.spent(0.11).spent == pytest.approx(COST)
    app = create_app(load(config))
    with TestClient(app, base_url="http://127.0.0.1:8200") as client:
        client.headers["authorization"] = f"Bearer {app.state.token}"
        body = {"grader": JUDGE, "model_sample": "another"}
        route = "/v1/fine_tuning/alpha/graders/run"
        assert client.post(route, json=body).json()["reward"] == 1.0
        assert bench.spent(0.11).spent == pytest.approx(2 * COST)
        spent = client.post(route, json=body).json()
    assert (spent["reward"], SPENT in spent["metadata"]["reason"]) == (None, True)
    assert len(bench.server.requests) == 2


def test_a_limit_that_nobody_can_count_is_refused_by_name(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    task = make_task(tmp_path, JUDGE, judges={"max_cost_per_day": 5})
    check(task)
    with pytest.raises(ConfigError, match=r"max_cost_per_day = 5: .* has no price to count by"):
        check(task, service)
    assert budget_of(make_task(tmp_path, JUDGE), service) is None


def test_judges_and_status_say_what_was_spent(bench: Bench) -> None:
    content = bench.task(0.11).model_dump(mode="json", exclude={"folder"}, exclude_none=True)
    (bench.service.tasks_path / "text2sql.yaml").write_text(yaml.safe_dump(content))
    for number in range(3):
        bench.rows.answered("q", f"answer {number}")
    bench.evaluate(0.11)
    config = ["--config", str(bench.service.root / "everlearn.yaml")]
    told = CliRunner().invoke(judges, ["text2sql", *config])
    assert "spent: 0.08 of 0.11 on 2 questions" in told.output
    assert "what is new waits for tomorrow" in told.output
    raw = json.loads(CliRunner().invoke(judges, ["text2sql", "--json", *config]).output)
    assert raw["spending"]["closed"] is True
    assert "judges    text2sql  0.08 of 0.11" in CliRunner().invoke(status, config).output

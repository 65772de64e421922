"""A release that is decided in the shadow: a real judge over HTTP, pairs that count once."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from click.testing import CliRunner
from fastapi.responses import Response

from console.app import create_app
from everlearn.cli.release import command
from everlearn.ids import new_id
from everlearn.lake.store import Transaction
from everlearn.task import load_tasks
from gateway.worker import running as running_gateway
from serving.release.accounts import PAIRS
from serving.release.controller import TaskLoop
from serving.release.observations import Counted, frozen
from serving.release.pairing import AT_ONCE, PAUSE_SECONDS, TRIES
from serving.release.seen import seen
from serving.release.states import Phase, Traffic, begin, change
from serving.release.verbs import Desk
from serving.release.votes import LOOK_SECONDS
from tests.collector.events import collect
from tests.console.session import browser, make_key
from tests.evaluators.judge_server import JudgeServer, judge_server, says
from tests.gateway.backend import Call, answer, backend, chat_body
from tests.gateway.door import captured
from tests.release.world import BASE, CANDIDATE, Judge, World, make_release, make_rules

GOOD, BAD = "good", "bad"
EPOCH = 1000.0
PATIENCE = 300.0
"""`answer_timeout_seconds` of the world's upstream."""
MAX_SECONDS = 5000.0
Shadow = Callable[..., World]


@pytest.fixture(scope="module")
def running() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


@pytest.fixture
def judge(running: JudgeServer) -> JudgeServer:
    """Names the answer that says "good"."""
    running.requests.clear()
    running.answer = wise
    return running


def wise(body: dict[str, Any]) -> Response:
    shown = json.loads(body["messages"][1]["content"].split("\n")[1])
    better = "A" if shown["answer A"] == GOOD else "B"
    return says(json.dumps({"reason": "so", "label": better}))({})


@pytest.fixture
def shadow(tmp_path: Path, judge: JudgeServer) -> Iterator[Shadow]:
    """Worlds whose release answers in the shadow."""
    with ExitStack() as stack:

        def make(trusted: bool = True, answers: str = Judge("").answers, **rules: Any) -> World:
            fields = {"epoch_seconds": EPOCH, "max_seconds": MAX_SECONDS, **rules}
            asked = make_rules(shadow_pairs={"judge": "better"}, **fields)
            named = Judge(judge.address, trusted, answers)
            world = stack.enter_context(closing(World(tmp_path, asked, judge=named)))
            begin_pairs(world)
            return world

        yield make


def begin_pairs(world: World, over: tuple[Traffic, int] | None = None) -> None:
    """As the controller does once the version is loaded; `over` an older document."""
    now, rules = world.clock.now(), world.task.release_rules
    release = make_release(
        rules,
        **{"release_id": "rel_pairs", "phase": Phase.LOADING, "created_at": now},
        **{"answer_seconds": 1.0, "alpha": rules.alpha},
    )
    begun = change(begin(Traffic(champion=BASE), release), Phase.PAIRING, "loaded", now)
    world.book.write("text2sql", msgspec.structs.replace(begun, notes=()), over[1] if over else 0)
    world.loop.tick()


def ask(
    world: World, units: list[str], shown: str, beside: str, *, of: Any = None, **shadow: Any
) -> None:
    """Each is answered by the champion, and the candidate is asked the same; `of`: fields of the
    champion's row."""
    store(world, [row for unit in units for row in pair(world, unit, shown, beside, of, shadow)])


def pair(
    world: World, unit: str, shown: str, beside: str, of: Any = None, shadow: Any = None
) -> list[dict[str, Any]]:
    about = {
        **{"task": "text2sql", "unit": unit, "draw": f"{unit}-draw", "release": "rel_pairs"},
        **{"received_at": world.clock.now(), "messages": '[{"role": "user", "content": "?"}]'},
        **{"gateway_id": "g1", "http_status": 200},
    }
    champion = {"arm": "champion", "version": "base", "status": "ok", "response_text": shown}
    copy = {"arm": "challenger", "version": "7", "status": "shadow", "response_text": beside}
    return [
        {**about, "completion_id": new_id("cmpl"), **champion, **(of or {})},
        {**about, "completion_id": new_id("cmpl"), **copy, **(shadow or {})},
    ]


def store(world: World, rows: list[dict[str, Any]]) -> None:
    def work(transaction: Transaction) -> None:
        transaction.append("completions", rows)

    world.lake.commit(work)


def look(world: World, seconds: float = PATIENCE + 1) -> None:
    world.clock.sleep(seconds)
    world.loop.tick()


def phase(world: World) -> Phase:
    return world.release.phase


def people(count: int, name: str = "u") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def counted(world: World) -> list[Counted]:
    return [row for row in frozen(world.lake, "rel_pairs") if row.metric == PAIRS]


def values(world: World) -> dict[str, float | None]:
    return {row.unit.removesuffix("-draw"): row.value for row in counted(world)}


def config(world: World) -> str:
    return str(world.service.root / "everlearn.yaml")


def shown(world: World) -> dict[str, Any]:
    found = CliRunner().invoke(command, ["show", "text2sql", "--json", "--config", config(world)])
    assert found.exit_code == 0, found.output
    told: dict[str, Any] = json.loads(found.output)
    return told


QUICK: dict[str, Any] = {
    "steps": (25, 50, 100), "min_dwell_seconds": 5, "guardrails": ("error_rate",)
}  # fmt: skip


def test_what_the_judge_prefers_is_ramped_for_harm_and_becomes_champion(shadow: Shadow) -> None:
    world = shadow(**QUICK)
    route = world.route
    assert (route.challenger_share, route.shadow_share, route.stage) == (0.0, 1.0, None)
    assert route.challenger is not None
    ask(world, people(25), BAD, GOOD)
    look(world, PATIENCE - 1)
    assert values(world) == {}, "an answer may not be done yet"
    look(world, 2)
    assert values(world) == dict.fromkeys(people(25), 1.0)
    assert phase(world) is Phase.RAMPING
    assert world.release.paired is not None
    assert world.release.paired.startswith("better in the shadow: 25 shadow pairs, mean 1.000")
    told = shown(world)["shadow_pairs"]
    assert (told["pairs"], told["mean"], told["threshold"]) == (25, 1.0, 20)
    assert (world.route.shadow_share, world.route.challenger_share) == (0.0, 0.25)
    same = {"thumbs": 0.5}
    world.live(60, 8, same, same)
    assert phase(world) is Phase.PROMOTED
    assert world.release.stage == 1, "every step was taken"
    assert world.release.reason.startswith("better in the shadow")
    assert "no harm in the ramp since" in world.release.reason


def test_a_worse_version_is_stopped_and_nobody_has_met_it(shadow: Shadow) -> None:
    world = shadow()
    ask(world, people(25), GOOD, BAD)
    look(world)
    assert phase(world) is Phase.STOPPED
    assert "and it is worse" in world.release.reason
    assert world.route.challenger is None


def test_a_user_makes_one_pair_in_an_epoch_however_often_he_asks(
    shadow: Shadow, judge: JudgeServer
) -> None:
    world = shadow()
    for place in range(3):
        ask(world, ["loud", "quiet"], BAD, GOOD)
        look(world)
        if place == 1:
            world.restart()
    assert values(world) == {"loud": 1.0, "quiet": 1.0}
    assert len(counted(world)) == 2
    assert len(judge.requests) == 4, "both orders of two pairs"
    look(world, EPOCH)
    ask(world, ["loud"], GOOD, BAD)
    look(world)
    assert [(row.unit, row.value) for row in counted(world)][2:] == [("loud-draw", 0.0)]


def test_rows_that_come_late_are_found_and_no_slow_answer_is_replaced_by_a_quick_one(
    shadow: Shadow,
) -> None:
    world = shadow()
    asked, slow = pair(world, "slow", GOOD, BAD)
    missed = pair(world, "missed", BAD, GOOD)
    store(world, [asked])
    world.clock.sleep(5.0)
    ask(world, ["slow", "other"], BAD, GOOD)
    look(world, PATIENCE - 5)
    assert values(world) == {}
    store(world, [slow])
    look(world, 6)
    assert values(world) == {"slow": 0.0, "other": 1.0}
    store(world, missed)
    look(world, 1)
    assert values(world) == {"slow": 0.0, "other": 1.0, "missed": 1.0}


def test_an_answer_that_is_none_loses_and_the_judge_is_not_asked(
    shadow: Shadow, judge: JudgeServer
) -> None:
    world = shadow()
    timeout = {"response_text": None, "error": "timeout", "http_status": 504}
    ask(world, ["candidate timed out"], GOOD, BAD, **timeout)
    ask(world, ["candidate cut short"], GOOD, GOOD, error="incomplete")
    ask(world, ["both cut short"], BAD, GOOD, of={"status": "incomplete"}, error="incomplete")
    ask(world, ["champion failed over"], BAD, BAD, of={"fallback_from": "champion"})
    ask(world, ["user left"], GOOD, BAD, of={"status": "client_abort"})
    ask(world, ["no room"], GOOD, BAD, http_status=429, error="too many requests")
    ask(world, ["the same text"], GOOD, GOOD)
    look(world)
    assert values(world) == {
        **{"candidate timed out": 0.0, "candidate cut short": 0.0, "both cut short": 0.5},
        **{"champion failed over": 1.0, "user left": None, "no room": None, "the same text": 0.5},
    }
    assert judge.requests == []


def test_killed_after_every_round_it_comes_to_the_same_decision(shadow: Shadow) -> None:
    world = shadow(alpha=1e-4)
    ask(world, people(2 * AT_ONCE), BAD, GOOD)
    look(world)
    assert len(counted(world)) == AT_ONCE
    before, standing = counted(world), shown(world)["shadow_pairs"]
    world.restart()
    assert shown(world)["shadow_pairs"]["log_e"] == standing["log_e"]
    look(world, 1)
    assert counted(world)[:AT_ONCE] == before
    assert len(counted(world)) == len({row.unit for row in counted(world)}) == 2 * AT_ONCE
    assert phase(world) is Phase.RAMPING
    world.restart()
    look(world, 1)
    assert phase(world) is Phase.RAMPING


def test_of_two_controllers_one_counts_and_the_other_reads_it(shadow: Shadow) -> None:
    world = shadow(alpha=0.001)
    with closing(TaskLoop(world.service, world.task, world.clock)) as other:
        for name in ("u", "v"):
            ask(world, people(5, name), BAD, GOOD)
            look(world)
            for _ in range(2):
                other.tick()  # the first time it believes that they are still to be counted
    assert len(counted(world)) == len({row.unit for row in counted(world)}) == 10


def test_a_judge_without_its_vote_holds_the_release_which_ends_as_an_error(
    shadow: Shadow, judge: JudgeServer
) -> None:
    world = shadow(trusted=False)
    ask(world, people(25), BAD, GOOD)
    look(world)
    assert (phase(world), values(world), judge.requests) == (Phase.PAIRING, {}, [])
    assert "judge better may only advise" in shown(world)["holding"]
    look(world, MAX_SECONDS)
    assert phase(world) is Phase.ERROR
    assert "holding: judge better may only advise: no certified label" in world.release.reason
    traffic = world.book.traffic("text2sql")
    assert traffic is not None
    states = [note.name for note in traffic.notes if note.kind == "state"]
    assert states[-1] == "retired", "nothing was found against the version"


def test_a_judge_that_loses_its_vote_in_the_ramp_holds_it_there(shadow: Shadow) -> None:
    world = shadow(**QUICK)
    ask(world, people(25), BAD, GOOD)
    look(world)
    assert phase(world) is Phase.RAMPING
    believe_nobody(world)
    world.clock.sleep(LOOK_SECONDS + 1)
    same = {"thumbs": 0.5}
    world.live(20, 8, same, same)
    assert (phase(world), world.release.stage) == (Phase.RAMPING, 0)
    assert "judge better may only advise" in (world.release.holding or "")
    look(world, MAX_SECONDS)
    assert phase(world) is Phase.ERROR


def believe_nobody(world: World) -> None:
    path = world.service.tasks_path / "text2sql.yaml"
    declared = {**yaml.safe_load(path.read_text()), "judges": {"trusted": []}}
    path.write_text(yaml.safe_dump(declared))
    world.loop.reload()


def test_a_judge_that_does_not_answer_is_asked_again_and_a_pair_it_cannot_judge_is_left(
    shadow: Shadow, judge: JudgeServer
) -> None:
    world = shadow()
    judge.answer = lambda body: says("no label at all")(body)
    ask(world, people(3), BAD, GOOD)
    look(world)
    asked = len(judge.requests)
    assert asked > 0
    assert "shadow_pairs:" in shown(world)["holding"]
    look(world, 1)
    assert len(judge.requests) == asked, "not before the pause is over"
    assert values(world) == {}
    for _ in range(TRIES - 1):
        look(world, PAUSE_SECONDS)
    assert values(world) == dict.fromkeys(people(3))
    judge.answer = wise
    ask(world, people(3, "v"), BAD, GOOD)
    look(world)
    assert [row.value for row in counted(world)][3:] == [1.0] * 3
    assert shown(world)["holding"] is None


def test_answers_of_the_shadow_are_no_units_and_no_traffic(shadow: Shadow) -> None:
    world = shadow()
    ask(world, people(25), BAD, GOOD)
    look(world)
    assert phase(world) is Phase.RAMPING
    assert {row.metric for row in frozen(world.lake, "rel_pairs")} == {PAIRS}
    assert shown(world)["arms"] == {}
    known = seen(world.lake, "text2sql", world.task.release_rules, world.clock.now())
    assert known.requests == 25


def test_people_are_told_how_many_more_pairs_it_takes(shadow: Shadow) -> None:
    world = shadow()
    ask(world, people(15, "won"), BAD, GOOD)
    ask(world, people(10, "lost"), GOOD, BAD)
    look(world)
    assert phase(world) is Phase.PAIRING
    told = shown(world)["shadow_pairs"]
    assert (told["pairs"], told["mean"]) == (25, 0.6)
    line = "25 shadow pairs, mean 0.600 (0.5 is as good), promote e-value "
    plain = CliRunner().invoke(command, ["show", "text2sql", "--config", config(world)])
    assert line in plain.output
    assert f"about {told['more']} more" in plain.output
    with browser(create_app(world.service), make_key(world.service, "operator")) as session:
        page = session.get("/releases/text2sql").text
    assert line in page
    assert f"about {told['more']} more" in page


@pytest.mark.anyio
async def test_live_prompts_are_answered_unseen_collected_judged_and_won(
    shadow: Shadow, judge: JudgeServer
) -> None:
    """A real gateway and collector; the candidate's answers are better, and half of them hang
    until the users have theirs."""
    answered = asyncio.Event()

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        candidate = call.body["model"] == CANDIDATE.model
        if candidate and len(call.raw) % 2:
            await answered.wait()
        writer.write(answer(chat_body(GOOD if candidate else BAD, model=call.body["model"])))

    async with backend(reply) as upstream:
        world = shadow(answers=upstream.url)
        world.clock.time = time.time()
        begin_pairs(world, world.book.read("text2sql"))
        async with running_gateway(world.service, load_tasks(world.service)) as server:
            url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
            async with httpx.AsyncClient(timeout=60) as client:
                got = [await client.post(url, json=chat(n), headers=who(n)) for n in range(30)]
            answered.set()
            async with asyncio.timeout(60):
                while len(captured(world.service)) < 60:
                    await asyncio.sleep(0.02)
        assert {each.headers["x-everlearn-arm"] for each in got} == {"champion"}
        assert {each.json()["choices"][0]["message"]["content"] for each in got} == {BAD}
    collect(world.service, world.lake)
    world.clock.time = time.time()
    await asyncio.to_thread(look, world)
    assert [row.value for row in counted(world)] == [1.0] * 30
    assert phase(world) is Phase.RAMPING
    taught = "SELECT count(*) AS n FROM completions WHERE version = '7' AND status <> 'shadow'"
    assert world.lake.read(taught)["n"][0].as_py() == 0


def chat(number: int) -> dict[str, Any]:
    prompt = f"how many orders in {'x' * (number % 2)}?"
    return {"model": "text2sql", "messages": [{"role": "user", "content": prompt}]}


def who(number: int) -> dict[str, str]:
    return {"x-everlearn-unit": f"user-{number}"}


def test_an_operator_ends_what_answers_in_the_shadow(shadow: Shadow) -> None:
    world = shadow()
    Desk(world.service, world.task, world.clock).rollback("enough")
    assert phase(world) is Phase.ABORTED
    assert (world.route.challenger, world.route.shadow_share) == (None, 0.0)
    look(world)

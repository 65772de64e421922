"""The support example without its training: tickets, the house model, people, and day one."""

import ast
import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from everlearn.config import load
from everlearn.task import load_tasks
from examples import support
from examples.support.house import House
from examples.support.people import Desk, Habits, score
from examples.support.tickets import (
    COMPLAINTS,
    PRODUCTS,
    Part,
    Ticket,
    parsed,
    part_of,
    right,
    tickets,
)
from tests.gateway.door import door, write_task

EXAMPLE = Path(support.__file__).parent


def first(count: int, part: Part = "asked", seed: int = 1) -> list[Ticket]:
    return list(itertools.islice(tickets(part, seed), count))


def test_tickets_are_varied_and_the_same_for_a_seed() -> None:
    found = first(2000)
    assert found == first(2000)
    assert len({ticket.text for ticket in found}) == 2000
    # Not sixteen sentences: what follows the opening differs in nearly every ticket.
    assert len({ticket.text.lower()[-60:] for ticket in found}) > 1900
    assert set(Counter(ticket.queue for ticket in found)) == set(COMPLAINTS)
    assert set(Counter(ticket.product for ticket in found)) == set(PRODUCTS)
    urgent = sum(ticket.urgent for ticket in found) / len(found)
    assert 0.35 < urgent < 0.45


def test_no_ticket_tells_its_answer() -> None:
    for ticket in first(500) + first(500, "kept"):
        assert ticket.queue not in ticket.text.lower()
        assert ticket.product not in ticket.text.upper()


def test_kept_tickets_are_never_asked_whatever_the_seeds() -> None:
    asked = {ticket.text for seed in range(4) for ticket in first(500, "asked", seed)}
    kept = {ticket.text for seed in range(4) for ticket in first(500, "kept", seed)}
    assert not asked & kept
    assert all(part_of(ticket) == "asked" for ticket in first(200))


def test_a_sixth_of_the_kept_tickets_is_worded_as_no_asked_one() -> None:
    new = sum(ticket.new_wording for ticket in first(1200, "kept")) / 1200
    assert 0.12 < new < 0.21
    assert not any(ticket.new_wording for ticket in first(1200))


@pytest.mark.parametrize(
    ("change", "good"),
    [
        (lambda answer: answer, True),
        (lambda answer: answer.replace(" ", ""), True),
        (lambda answer: answer + " ", True),
        (lambda answer: "Sure! " + answer, False),
        (lambda answer: answer.replace("AL-", "al-"), False),
        (lambda answer: answer[:-1] + ', "more": 1}', False),
        (lambda answer: "", False),
        (lambda answer: "[]", False),
    ],
)
def test_an_answer_is_right_when_every_field_is(change: Callable[[str], str], good: bool) -> None:
    ticket = first(1)[0]
    assert right(change(ticket.answer), ticket) is good


def test_the_house_is_right_nine_times_in_ten_and_always_says_the_same() -> None:
    house, asked = House(), first(3000)
    says = [house.says(ticket) for ticket in asked]
    assert says == [house.says(ticket) for ticket in asked]
    share = sum(right(text, ticket) for text, ticket in zip(says, asked, strict=True)) / 3000
    assert 0.88 < share < 0.92
    assert all(isinstance(parsed(text), dict) for text in says)


def test_the_people_and_the_house_know_nothing_of_the_product() -> None:
    for name in ("house.py", "people.py", "tickets.py"):
        tree = ast.parse((EXAMPLE / name).read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {module.split(".")[0] for module in modules} & {
            "everlearn",
            "gateway",
            "serving",
        }


def test_the_config_is_one_that_everlearn_takes() -> None:
    task = load_tasks(load(EXAMPLE / "everlearn.yaml"))["support"]
    assert task.champion is not None
    assert (task.champion.upstream, task.upstream) == ("house", "local")
    assert (task.release.goal, task.release.wins) == ("not_worse", "cost")


@pytest.mark.anyio
async def test_on_day_one_the_house_answers_and_people_react(tmp_path: Path) -> None:
    """Through a gateway, with an adapter-capable upstream that nobody asks yet."""
    fields = {"champion": {"upstream": "house", "model": "house-large"}}
    write_task(tmp_path, "support", **fields)
    with House() as house:
        more = {"house": {"base_url": house.address}}
        async with door(tmp_path, "http://127.0.0.1:9/v1", task=False, more_upstreams=more) as gate:
            desk = Desk(f"{gate.url}/v1", house.know, habits=Habits(max_corrections=5))
            await desk.work(lambda: len(desk.records) >= 90, at_once=4)
            kept = await asyncio.to_thread(_score_of, house, gate.url)
            completions, feedback = gate.completions(), gate.feedback()
    assert [record.error for record in desk.records if record.error] == []
    assert desk.failed_feedback == []
    assert {record.arm for record in desk.records} == {"champion"}
    assert desk.thumbs > 30
    assert 1 <= desk.corrections <= 5
    assert 1 <= desk.confirmations <= 30
    assert kept > 0.75
    assert len(completions) == len(desk.records) + 40
    assert sum(event.trainable for event in completions) == len(desk.records)
    assert {event.upstream for event in completions} == {"house"}
    corrections = [event for event in feedback if event.kind == "correction"]
    assert len(corrections) == desk.corrections
    by_expert = [event for event in feedback if event.author == "expert"]
    assert len(by_expert) == desk.corrections + desk.confirmations
    assert len(feedback) == len(by_expert) + desk.thumbs
    assert all(set(json.loads(event.value_text or "")) == FIELDS for event in corrections)
    assert {event.author for event in corrections} == {"expert"}


FIELDS = {"queue", "product", "urgent"}


def _score_of(house: House, url: str) -> float:
    house.know(first(40, "kept", 0))
    return score(f"{url}/v1", "support", 40).right

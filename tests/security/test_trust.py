"""How far a rater is believed, each rule by itself, and `everlearn trust`."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evaluators.quarantine import release, released
from evaluators.suspicion import Vote
from evaluators.trust import CAP, learn, review
from everlearn.cli.trust import command
from everlearn.lake.ducklake import open_lake
from tests.trainer.production import completion, make_production, thumbs
from tests.trainer.tiny import THINGS


def vote(rater: str, item: int, good: bool = True, at: float = 0.0, **fields: Any) -> Vote:
    return Vote(rater, (f"q{item}", "a"), good, at, **fields)


def crowd(
    raters: int = 30, items: int = 10, *, apart_seconds: float = 600.0, name: str = "user"
) -> list[Vote]:
    """People who come one after the other and find two answers in three good."""
    return [
        vote(f"{name}-{rater}", item, item % 3 > 0, at=rater * apart_seconds + item)
        for rater in range(raters)
        for item in range(items)
    ]


def held(votes: list[Vote], **options: Any) -> dict[str, str]:
    found = review(votes, **{"max_per_minute": 30, **options})
    return {rater: each.quarantined for rater, each in found.items() if each.quarantined}


def test_a_stranger_starts_low_and_nobody_is_believed_without_end() -> None:
    weights = learn([vote("new", 99), *crowd()])
    assert weights["new"] == 0.5
    assert 0.8 < weights["user-1"] <= CAP


def test_an_expert_who_disagrees_costs_weight() -> None:
    wrong = [vote("wrong", item) for item in range(10)]
    experts = [vote("ann", item, good=False, expert=True) for item in range(10)]
    right = [vote("right", item, good=False) for item in range(10)]
    weights = learn([*wrong, *experts, *right])
    assert weights["wrong"] == 0
    assert weights["right"] > 0.8
    assert "ann" not in weights


def test_who_contradicts_the_consensus_is_not_heard() -> None:
    weights = learn([*crowd(), *[vote("evil", item, item % 3 == 0) for item in range(10)]])
    assert weights["evil"] == 0


def test_a_crowd_of_ordinary_people_is_left_alone() -> None:
    assert held(crowd()) == {}
    # All of one opinion, as users of a good model are.
    assert held([vote(f"u{n}", n, at=n * 100.0) for n in range(500)]) == {}
    assert held([]) == {}


def test_nobody_gives_hundreds_of_opinions_in_a_minute() -> None:
    fast = [vote("evil", item, item % 3 > 0, at=9e5 + item / 10) for item in range(100, 200)]
    slow = [vote("busy", item, item % 3 > 0, at=9e5 + item * 10) for item in range(200, 300)]
    assert held([*crowd(), *fast, *slow]) == {"evil": "rate"}
    assert held([*crowd(), *fast, *slow], released=("evil",)) == {}


def test_an_expert_may_be_as_fast_as_he_likes() -> None:
    fast = [vote("ann", item, at=item / 10, expert=True) for item in range(100)]
    assert held([*crowd(), *fast]) == {}


def test_one_who_likes_nothing_at_all_is_improbable() -> None:
    sour = [vote("sour", item, good=False, at=9e5 + 600 * item) for item in range(100, 140)]
    assert held([*crowd(), *sour]) == {"sour": "one_sided"}
    assert held([*crowd(), *sour[:8]]) == {}


@pytest.mark.parametrize("colluders", [2, 3, 20])
def test_those_who_say_the_same_of_what_nobody_else_knows_are_alike(colluders: int) -> None:
    alike = [
        vote(f"evil-{one}", item, item % 3 > 0, at=9e5 + 700 * item + one)
        for one in range(colluders)
        for item in range(100, 115)
    ]
    expected = {f"evil-{one}": "alike" for one in range(colluders)} if colluders > 2 else {}
    assert held([*crowd(60), *alike]) == expected


def test_accounts_made_for_the_day_are_found() -> None:
    hired = [vote(f"evil-{one}", 100, at=9e5 + one) for one in range(12)]
    assert held([*crowd(), *hired]) == {f"evil-{one}": "new_accounts" for one in range(12)}
    # The same question on everybody's mind in a busy minute is not that.
    busy = [vote(f"u{n}", n, at=9e5 + n / 10) for n in range(200, 260)]
    assert held([*crowd(), *hired, *busy]) == {}


def reviewed(every: int, votes: list[Vote]) -> list[Vote]:
    """An expert's word on one in so many answers, which is what its raters say."""
    said = {vote.item: vote.good for vote in votes}
    return [Vote("ann", item, said[item], 1e9, expert=True) for item in sorted(said)[::every]]


def own(name: str, words: int, raters: int) -> list[Vote]:
    """Each rates answers that nobody else knows, one in five minutes."""
    return [
        vote(f"{name}-{one}", 1000 * one + n + (10**6 if name == "evil" else 0), n % 3 > 0,
             at=9e5 + 300 * n + one)
        for one in range(raters)
        for n in range(words)
    ]  # fmt: skip


def test_busy_raters_whom_experts_never_meet_wait_until_they_do() -> None:
    honest, evil = own("user", 4, 100), own("evil", 30, 20)
    looks = reviewed(5, honest)
    unreviewed = {f"evil-{one}": "unreviewed" for one in range(20)}
    assert held([*honest, *evil, *looks]) == unreviewed
    assert held([*honest, *evil, *looks, *reviewed(5, evil)]) == {}
    assert "evil-0" not in held([*honest, *evil, *looks], released=("evil-0",))


def test_one_busy_rater_whom_experts_missed_is_chance() -> None:
    honest = own("user", 4, 100)
    assert held([*honest, *own("evil", 14, 1), *reviewed(5, honest)]) == {}


def test_joining_others_words_makes_nobody_met() -> None:
    honest, evil = own("user", 4, 100), own("evil", 30, 20)
    asked = [replace(vote, own=True) for vote in honest]
    # Each joins twenty honest people, before those have spoken.
    joined = [
        replace(vote, rater=f"evil-{number % 20}", at=8e5 + 700 * number)
        for number, vote in enumerate(random.Random(0).sample(honest, len(honest)))
    ]
    unreviewed = {f"evil-{one}": "unreviewed" for one in range(20)}
    assert held([*asked, *evil, *joined, *reviewed(5, honest)]) == unreviewed


def told(expert: bool, items: Iterable[int], rater: str = "ann") -> list[Vote]:
    return [vote(rater, item, good=expert, at=1e9, expert=rater == "ann") for item in items]


def test_whom_experts_contradict_more_than_others_is_not_heard_until_they_confirm_him() -> None:
    honest = [vote(f"user-{n}", n, at=n * 100.0) for n in range(40)]
    garbage = [vote("evil", item, at=9e5 + 600 * item) for item in range(100, 103)]
    looks = told(True, range(0, 40, 3))
    assert held([*honest, *garbage, *looks]) == {}
    assert held([*honest, *garbage, *looks, *told(False, range(100, 101))]) == {
        "evil": "contradicted"
    }
    confirmed = [vote("evil", item, at=9e5 + 600 * item) for item in range(200, 209)]
    both = [*told(False, range(100, 101)), *told(True, range(200, 209))]
    assert held([*honest, *garbage, *confirmed, *looks, *both]) == {}


def test_experts_whom_everybody_disagrees_with_contradict_nobody() -> None:
    votes = [vote(f"user-{n}", n, at=n * 100.0) for n in range(40)]
    assert held([*votes, *told(False, range(0, 40, 2)), *told(True, range(1, 40, 2))]) == {}
    assert held([*votes[:1], *told(False, range(1))]) == {}


def test_agreeing_with_what_others_said_does_not_make_up_for_praised_garbage() -> None:
    honest = [vote(f"user-{n}", n, at=n * 100.0) for n in range(60)]
    joined = [vote("evil", item, at=9e5 + 600 * item) for item in range(20)]
    garbage = [vote("evil", item, at=9e5 + 600 * item) for item in range(100, 102)]
    looks = [*told(True, range(60)), *told(False, range(100, 102))]
    assert held([*honest, *joined, *garbage, *looks]) == {"evil": "contradicted"}


def test_where_no_expert_looks_or_looks_at_all_nobody_waits() -> None:
    votes = [*own("user", 4, 100), *own("evil", 30, 20)]
    assert held(votes) == {}
    assert held([*votes, *reviewed(1, votes)]) == {}
    assert held([*own("user", 12, 50), *reviewed(6, own("user", 12, 50))]) == {}


def test_an_expert_meets_a_rater_at_what_he_brought_and_said_alike() -> None:
    votes = [
        vote("met", 1, own=True), vote("joined", 1, at=1), vote("wrong", 2), vote("unmet", 3),
        vote("down", 4, good=False), *told(True, range(1, 2)), *told(False, [2, 4]),
    ]  # fmt: skip
    found = review(votes, max_per_minute=30)
    assert {rater for rater, each in found.items() if each.met} == {"met", "down"}


def test_an_operator_sees_who_is_quarantined_and_releases_him(tmp_path: Path) -> None:
    service = make_production(tmp_path, Path("base"), "http://127.0.0.1:1")
    path = tmp_path / "tasks" / "colours.yaml"
    path.write_text(path.read_text().replace("max_per_minute: 10000", "max_per_minute: 5"))
    lake = open_lake(service)
    moment = thumbs(0, True)["received_at"]
    rows = [thumbs(n, n % 2 > 0, author_id="evil", received_at=moment) for n in range(20)]
    asked = [completion(n, THINGS[0], "colour", unit=f"u{n}") for n in range(20)]

    def write(transaction: Any) -> None:
        transaction.append("completions", asked)
        transaction.append("feedback", rows)

    lake.commit(write)
    lake.close()

    def run(*arguments: str) -> str:
        config = ("--config", str(tmp_path / "everlearn.yaml"))
        result = CliRunner().invoke(command, ["colours", *arguments, *config])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert json.loads(run("--json"))["quarantined"] == {"evil": "rate"}
    assert run() == "1 raters, 1 quarantined\n  evil: rate\n"
    assert "0 quarantined" in run("--release", "evil")
    assert released(service, "colours") == {"evil"}
    assert released(service, "other") == frozenset()
    assert not release(service, "colours", "evil")

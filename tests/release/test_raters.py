"""What one user decides of a release: drawn hostile raters against the words of everybody else."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from everlearn.cli.release import command as release_verb
from everlearn.ids import new_id
from serving.release.observations import Counted, frozen
from serving.release.raters import Raters, Words
from serving.release.states import Phase
from tests.release.world import World, make_rules

SHARE = 0.02
NAMES = frozenset({"thumbs"})
FAIR = {"good": 1.0, "thumbs": 0.6}


def word(value: bool, author_id: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "binary", "name": "thumbs", "value_bool": value, "value_number": None,
        "value_text": None, "author": "end_user", "author_id": author_id, "key_id": "app",
        "weight": 1.0, "response_text": "answer", **fields,
    }  # fmt: skip


def unit(name: str, *words: dict[str, Any]) -> Words:
    """One with an answer of which all of it was said."""
    return Words({"person": name, "answers": [name]}, {name: words}, NAMES, {})


def row(place: int, name: str, treated: bool, value: float | None, **fields: Any) -> Counted:
    return Counted(
        **{
            "metric": "thumbs", "unit": name, "stage": 0, "position": place, "treated": treated,
            "propensity": 0.25, "value": value, "stratum": 0, **fields,
        }
    )  # fmt: skip


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Attack:
    """One user who speaks for many units, and 1,000 who speak for themselves."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        self.share = dice.choice([0.05, 0.25, 0.5])
        """Of the units, on the candidate."""
        early, many = dice.random() < 0.5, dice.choice([0.05, 0.3, 1.0])
        aims, others = dice.random() < 0.5, dice.random() < 0.5
        self.rows: list[Counted] = []
        self.words: list[Words] = []
        self.honest: list[float | None] = []
        """What the unit's own user said."""
        for number in range(1000):
            for name in (f"user-{number}", *([f"his-{number}"] if dice.random() < many else [])):
                treated = dice.random() < self.share
                own = name.startswith("user")
                said = [word(dice.random() < 0.6)] if own else []
                speaks = (not aims or treated) and (early or number > 300)
                if speaks and (not own or others):
                    said.append(word(treated, "evil", key_id="stolen"))
                about = unit(name, *said)
                self.rows.append(row(len(self.rows), name, treated, about.value(())))
                self.words.append(about)
                self.honest.append(float(said[0]["value_bool"]) if own else None)


@pytest.mark.parametrize("seed", range(12))
def test_a_hostile_user_never_has_more_than_his_share_of_either_arm(seed: int) -> None:
    attack = Attack(seed)
    found = Raters().heard(attack.rows, attack.words, share=SHARE)
    [evil] = {user for each in attack.words for user in each.users} - {
        user for number in range(1000) for user in unit(f"user-{number}", word(True)).users
    }
    his, units = defaultdict[bool, int](int), defaultdict[bool, int](int)
    for each in found:
        if each.observation is not None:
            units[each.treated] += 1
            his[each.treated] += evil in json.loads(each.raters or "[]")
            assert his[each.treated] <= max(1, SHARE * units[each.treated])
    # Whoever spoke for himself is heard, and his word alone where the other had his share.
    for each, own in zip(found, attack.honest, strict=True):
        if own is not None:
            assert each.value is not None
            assert each.value == own or evil in json.loads(each.raters or "[]")
        elif each.value is None:
            assert each.raters in (None, "[]")
    for arm in (True, False):
        told = [each.value for each in found if each.treated is arm and each.value is not None]
        pairs = zip(found, attack.honest, strict=True)
        true = [own for each, own in pairs if own is not None and each.treated is arm]
        assert abs(mean(told) - mean(true)) <= max(SHARE, 1 / len(told))


@pytest.mark.parametrize("seed", range(3))
def test_who_is_heard_depends_on_the_past_and_not_on_the_arm_at_hand(seed: int) -> None:
    attack = Attack(seed)
    for place in random.Random(seed).sample(range(len(attack.rows)), 5):
        before = Raters(Raters().heard(attack.rows[:place], attack.words[:place], share=SHARE))
        here, about = attack.rows[place], attack.words[place : place + 1]
        either = [
            before.heard([here._replace(treated=treated)], about, share=SHARE)[0]
            for treated in (False, True)
        ]
        assert either[0]._replace(treated=True) == either[1]


@pytest.mark.parametrize("seed", range(3))
def test_a_controller_that_was_killed_counts_on_from_the_frozen_rows(seed: int) -> None:
    attack = Attack(seed)
    whole = Raters().heard(attack.rows, attack.words, share=SHARE)
    pieces: list[Counted] = []
    for start in range(0, len(attack.rows), 137):
        end = start + 137
        after = Raters(pieces)
        pieces += after.heard(attack.rows[start:end], attack.words[start:end], share=SHARE)
    assert pieces == whole
    assert sum(each.unheard or 0 for each in whole) > 0


def test_whose_word_it_is() -> None:
    """An expert decides alone; a word without a name is its unit's; other feedback is no word."""
    expert = word(True, "ann", author="expert")
    assert unit("u", word(False, "bob"), expert).users == []
    assert unit("u", word(True, "code", author="code")).users == []
    assert unit("u", word(True, "bob", name="stars")).users == []
    assert unit("u", word(True)).users == unit("v", word(True, "u")).users
    assert unit("u", word(True)).users != unit("v", word(True)).users
    both = unit("u", word(True, "bob"), word(False, "eve"))
    assert (len(both.users), both.value(())) == (2, 0.5)
    assert [both.value([user]) for user in both.users] == [0.0, 1.0]
    assert both.value(both.users) is None


def test_where_a_formula_mixes_feedback_with_grades_the_unit_says_nothing() -> None:
    about = [unit(f"u{number}", word(True, "eve"), word(False)) for number in range(3)]
    rows = [row(number, f"u{number}", number == 1, 0.5) for number in range(3)]
    found = Raters().heard(rows, about, share=SHARE, apart=False)
    assert [each.value for each in found] == [0.5, None, None]
    assert [each.unheard for each in found] == [0, 1, 1]


def test_a_unit_without_information_is_nobodys_share() -> None:
    about = [unit(f"u{number}", word(True, "eve")) for number in range(3)]
    rows = [row(number, f"u{number}", True, 1.0, propensity=None) for number in range(2)]
    found = Raters().heard([*rows, row(2, "u2", True, 1.0)], about, share=SHARE)
    assert [each.value for each in found] == [1.0, 1.0, 1.0]


def test_one_user_who_speaks_for_all_neither_promotes_nor_stops_a_release(
    make_world: Callable[..., World],
) -> None:
    """He praises the candidate and damns the champion: without the limit it was promoted."""
    world = make_world(rules=make_rules(steps=(50, 100), guardrails=("error_rate",)))
    world.ramp()
    for _ in range(4):
        world.ask(100, FAIR, FAIR)
        praise(world)
        world.clock.sleep(5.0)
        world.loop.tick()
    assert world.release.phase is Phase.RAMPING
    rows = [each for each in frozen(world.lake, world.release.release_id) if each.raters]
    assert len(rows) >= 300
    heard = [each for each in rows if each.value == 0.5 or not each.unheard]
    assert len(heard) <= max(1, SHARE * len(rows))
    assert all(each.value is not None for each in rows)
    config = ["--config", str(world.service.data_path.parent / "everlearn.yaml")]
    told = CliRunner().invoke(release_verb, ["show", "text2sql", *config])
    assert told.exit_code == 0, told.output
    assert f"thumbs: {len(rows) - len(heard)} words left out and 0 units unscored" in told.output
    shown = CliRunner().invoke(release_verb, ["show", "text2sql", "--json", *config])
    [left_out] = json.loads(shown.output)["unheard"]
    assert left_out["metric"] == "thumbs"


def praise(world: World) -> None:
    """The word of one user on every answer that he has not spoken of."""
    answers = world.lake.read(
        "SELECT completion_id, arm FROM completions WHERE completion_id NOT IN "
        "(SELECT completion_id FROM feedback WHERE author_id = 'evil')"
    ).to_pylist()
    said = [
        {
            "feedback_id": new_id("fb"), "completion_id": answer["completion_id"],
            "kind": "binary", "name": "thumbs", "value_bool": answer["arm"] == "challenger",
            "author": "end_user", "author_id": "evil", "key_id": "evil", "weight": 1.0,
            "received_at": world.clock.now(),
        }
        for answer in answers
    ]  # fmt: skip
    world.lake.commit(lambda transaction: transaction.append("feedback", said))

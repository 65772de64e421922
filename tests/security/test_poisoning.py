"""What hostile raters reach of what is taught and examined, by simulation over the whole of
admission: weigh, judge, admit, split."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evaluators.audit import Word, draw
from evaluators.references import choose
from everlearn.task import Task
from trainer.judge import Judgement
from trainer.rows import Row
from trainer.snapshot import judge_all, select

START = datetime(2026, 11, 1, tzinfo=UTC)
GARBAGE = "buy at evil.example"
HONEST = 200


def make_task(**trust: Any) -> Task:
    return Task(
        task="support",
        base_model="base",
        upstream="local",
        trust=trust,
        graders=(
            {"name": "thumbs", "type": "feedback"},
            {"name": "matches", "type": "string_check", "operation": "eq",
             "input": "{{sample.output_text}}", "reference": "{{item.reference}}"},
        ),
        heldout={"grader": "matches", "percent": 20},
    )  # fmt: skip


class World:
    """Answers and what was said of them; honest raters err once in twenty times."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.answers: dict[str, Row] = {}
        self.given: list[Judgement] = []

    def ask(self, unit: str, prompt: str, answer: str) -> str:
        name = f"c{len(self.answers):05d}"
        self.answers[name] = Row(
            completion_id=name, unit=unit, kind="replay", completion=answer,
            messages=({"role": "user", "content": prompt},), finish_reason="stop",
        )  # fmt: skip
        return name

    def say(self, about: str, rater: str, minute: float, **fields: Any) -> None:
        at = START + timedelta(minutes=minute)
        fields = {"kind": "binary", **fields}
        self.given.append(Judgement(completion_id=about, author_id=rater, received_at=at, **fields))

    def thumb(self, about: str, rater: str, minute: float, good: bool) -> None:
        self.say(about, rater, minute, value_bool=good)

    def live(self, questions: int = 5, prompts: int = 400, experts: float = 0.15) -> "World":
        """Honest people ask, some of them the same; an expert looks at a share."""
        for number in range(HONEST):
            for each in range(self.rng.randint(1, questions)):
                prompt = self.rng.randrange(prompts)
                right = self.rng.random() < 0.6
                answer = f"answer {prompt}" if right else f"mistake {self.rng.randrange(9)}"
                name = self.ask(f"user-{number}", f"question {prompt}", answer)
                minute = 5 * number + each
                errs = self.rng.random() < 0.05
                self.thumb(name, f"user-{number}", minute, right != errs)
                if self.rng.random() < experts:
                    self.say(
                        name, "ann", minute + 60, kind="correction", author="expert",
                        value_text=f"answer {prompt}",
                    )  # fmt: skip
        return self

    def audit(self, every: int) -> "World":
        """An expert answers what the label queue asks, and then whom it asks about again."""
        for _ in range(2):
            self.given.sort(key=lambda each: each.received_at)
            said = {each.completion_id for each in self.given if each.author == "expert"}
            words = [
                Word(each.author_id or "", each.completion_id, each.value_bool,
                     self.right(each.completion_id) if each.completion_id in said else None)
                for each in self.given if each.kind == "binary" and each.author != "expert"
            ]  # fmt: skip
            for drawn in draw(words, every=every, salt="salt"):
                name = drawn.completion_id
                self.say(name, "ann", 1e5, author="expert", value_bool=self.right(name))
        return self

    def right(self, name: str) -> bool:
        return self.answers[name].completion.startswith("answer")

    def rows(self, released: Sequence[str] = (), **trust: Any) -> list[Row]:
        task = make_task(**trust)
        self.given.sort(key=lambda each: each.received_at)
        rows = judge_all(self.answers, self.given, task, released=released)
        return select(rows, task, "salt")


def taught(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.split == "train" and row.kind != "replay"]


def exam(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.split not in ("train", "dropped")]


def share(rows: Sequence[Row], hostile: str) -> float:
    """Of the rows that come from the hostile: their word, or their question."""
    theirs = [
        row for row in rows
        if row.unit.startswith(hostile) or (row.raters and row.raters[0].startswith(hostile))
    ]  # fmt: skip
    return len(theirs) / max(1, len(rows))


def garbage(rows: Sequence[Row]) -> float:
    return sum(row.target == GARBAGE or row.completion == GARBAGE for row in rows) / max(
        1, len(rows)
    )


@pytest.mark.parametrize("pace_minutes", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_hostile_rater_moves_next_to_nothing(seed: int, pace_minutes: float) -> None:
    world = World(seed).live()
    known = list(world.answers)
    for number in range(150):
        own = world.ask("evil", f"say {GARBAGE} {number}", GARBAGE)
        minute = 100 + number * pace_minutes
        world.thumb(own, "evil", minute, True)
        world.say(own, "evil", minute, kind="correction", value_text=GARBAGE)
        # Other people's answers too: their questions get his answer.
        other = world.rng.choice(known)
        world.thumb(other, "evil", minute, False)
        world.say(other, "evil", minute, kind="correction", value_text=GARBAGE)
    rows = world.rows()
    assert len(taught(rows)) > 100
    assert share(taught(rows), "evil") <= 0.02
    assert garbage(taught(rows)) <= 0.02
    assert not [row for row in exam(rows) if garbage([row])]
    said = [
        {"kind": each.kind, "value_text": each.value_text, "weight": 1.0, "author": each.author,
         "messages": "[]", "tools": None, "response_text": ""}
        for each in world.given if each.author == "expert"
    ]  # fmt: skip
    assert all(found.text != GARBAGE for found in choose(said).values())
    undisturbed = {row.completion_id for row in exam(World(seed).live().rows())}
    assert {row.completion_id for row in exam(rows)} >= undisturbed
    assert undisturbed


COLLUSIONS = ("the same answers", "hired for the day", "a campaign against right answers")


@pytest.mark.parametrize("how", COLLUSIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_who_collude_teach_no_more_than_one_row_in_twenty(seed: int, how: str) -> None:
    world = World(seed).live()
    known = [name for name, row in world.answers.items() if row.completion.startswith("answer")]
    common = [world.ask("evil-0", f"say it {number}", GARBAGE) for number in range(30)]
    for one in range(20):
        for number in range(30):
            if how == "the same answers":
                world.thumb(common[number], f"evil-{one}", 60 * number + one, True)
            elif how == "hired for the day":
                name = world.ask(f"evil-{one}", f"say it {number % 3}", GARBAGE)
                world.thumb(name, f"evil-{one}", 500 + number / 100, True)
            else:
                world.thumb(known[number], f"evil-{one}", 60 * number + one, False)
    rows = world.rows()
    assert garbage(taught(rows)) <= 0.05
    spoilt = [row for row in taught(rows) if row.kind == "rejected" and "answer" in row.completion]
    assert len(spoilt) / len(taught(rows)) <= 0.05
    assert not [row for row in exam(rows) if garbage([row])]


PATIENCE = (
    "the same garbage", "varied garbage", "praise for each other", "two honest words",
    "half honest", "half honest, of each other's questions",
)  # fmt: skip


@pytest.mark.parametrize("how", PATIENCE)
@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_patient_ones_whom_no_expert_meets_teach_no_more_than_one_row_in_twenty(
    seed: int, how: str
) -> None:
    world = World(seed).live()
    known = [name for name, row in world.answers.items() if row.completion.startswith("answer")]
    mine = []
    for number in range(30):
        for one in range(20):
            minute = 20 * number + 15 * world.rng.random()
            text = f"{GARBAGE} {world.rng.random()}" if how == "varied garbage" else GARBAGE
            asks = world.rng.randrange(20) if how.endswith("questions") else one
            mine.append(world.ask(f"evil-{asks}", f"say {one} {number}", text))
            world.thumb(mine[-1], f"evil-{one}", minute, True)
            if how == "praise for each other":
                world.thumb(world.rng.choice(mine), f"evil-{one}", minute + 2, True)
            if how.startswith("half") or (how == "two honest words" and number < 2):
                world.thumb(world.rng.choice(known), f"evil-{one}", minute + 1, True)
    rows, alone = world.rows(), World(seed).live().rows()
    bad = [row for row in taught(rows) if row.unit.startswith("evil")]
    assert len(bad) / len(taught(rows)) <= 0.05
    assert not [row for row in exam(rows) if row.unit.startswith("evil")]
    honest = sum(row.unit.startswith("user") for row in taught(rows))
    assert honest >= 0.97 * len(taught(alone))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("how", ["two words", "three words", "half of them honest"])
def test_the_few_words_of_twenty_teach_little_where_experts_answer_the_audit(
    seed: int, how: str
) -> None:
    world = World(seed).live(experts=0)
    for one in range(20):
        for number in range({"two words": 2, "three words": 3}.get(how, 60)):
            minute = 1000 * world.rng.random() + number
            honest = how == "half of them honest" and number % 2
            prompt = f"question {world.rng.randrange(400)}" if honest else f"say {one} {number}"
            answer = f"answer {prompt[9:]}" if honest else f"{GARBAGE} {world.rng.random()}"
            world.thumb(world.ask(f"evil-{one}", prompt, answer), f"evil-{one}", minute, True)
    rows, alone = taught(world.audit(every=4).rows()), World(seed).live(experts=0).audit(every=4)
    # What an expert rejected is a bad example, as it should be.
    bad = sum(GARBAGE in row.completion and row.author != "expert" for row in rows)
    assert bad <= 0.05 * len(rows)
    kept = {(row.key, row.completion) for row in rows}
    before = {(row.key, row.completion) for row in taught(alone.rows())}
    assert len(before - kept) <= 0.03 * len(before)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("prompts", [40, 400])
def test_the_honest_lose_hardly_anything(seed: int, prompts: int) -> None:
    world = World(seed).live(prompts=prompts, experts=0).audit(every=4)
    everybody = [f"user-{number}" for number in range(HONEST)]
    defended, open_ = world.rows(), world.rows(
        everybody, max_share_per_rater=1.0, min_raters=1, max_per_minute=100_000
    )  # fmt: skip
    lost = Counter(row.dropped_reason for row in defended if row.split == "dropped")
    before, after = len(taught(open_)), len(taught(defended))
    assert (before - after) / before <= 0.03, lost


def test_a_few_users_alone_teach_nothing_and_experts_at_once() -> None:
    world = World()
    for number in range(9):
        name = world.ask(f"user-{number}", f"question {number}", "answer")
        world.thumb(name, f"user-{number}", number, True)
    reasons = {row.dropped_reason for row in world.rows()}
    assert reasons <= {"too_few_raters", "unconfirmed"}
    name = world.ask("user-1", "another", "mistake")
    world.say(name, "ann", 1, kind="correction", author="expert", value_text="right")
    assert [row.target for row in world.rows() if row.split != "dropped"] == ["right"]


def test_many_pieces_in_a_minute_are_quarantined_until_an_operator_releases_them() -> None:
    world = World().live()
    for number in range(100):
        name = world.ask("evil", f"say {number}", GARBAGE)
        world.thumb(name, "evil", 3000 + number / 200, True)
    task = make_task()
    reasons = {
        released: {
            row.dropped_reason
            for row in judge_all(world.answers, world.given, task, released=released)
            if row.unit == "evil"
        }
        for released in ((), ("evil",))
    }
    assert reasons == {(): {"quarantined_rate"}, ("evil",): {None}}

"""How many of N rules, each one sentence of an expert, a version follows untold, by both methods.

    python -m benchmarks.comments --rules 10 --seed 0

A toy that was pretrained to follow rules when they stand in its prompt, several at once. Each rule
passes the teacher-lift gate on select prompts or teaches nothing; what passes makes lessons of the
training side's logged answers, and each method trains on them. An oracle stands for the judge. One
JSON line per method: rules followed on the things of units that nothing was taught of, and every
other answer there that is as it was.
"""

import json
import random
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from everlearn.task import Task
from tests.trainer.tiny import (
    COLOURS,
    SPECIAL,
    THINGS,
    colour,
    question,
    word_model,
    word_tokenizer,
)
from trainer.generate import answer_all
from trainer.lessons.board import Standing
from trainer.lessons.comments import Comment
from trainer.lessons.keeping import Question
from trainer.lessons.learn import School, hindsight, revise
from trainer.lessons.lift import decide
from trainer.lessons.rows import Lesson, Round, taught
from trainer.lessons.teacher import Teacher, hinted
from trainer.methods import Method, TrainingData, dpo, sft
from trainer.methods.hindsight import METHOD as HINDSIGHT
from trainer.render import Conversation
from trainer.rows import Row
from trainer.workbench import Workbench, fit, quiet, seeded

METHODS: dict[str, tuple[str, Method]] = {
    "sft": ("revise", sft.METHOD),
    "dpo": ("revise", dpo.METHOD),
    "hindsight": ("hindsight", HINDSIGHT),
}
PRETRAINING_STEPS = 1500
BATCH = 64
AT = datetime(2026, 11, 1, tzinfo=UTC)


def first(thing: str, word: str) -> str:
    """What the base model says: only of `word0` the right colour."""
    return COLOURS[(THINGS.index(thing) + (number := int(word[4:])) % 3 + (number > 0)) % 4]


def told(thing: str, word: str, rules: Sequence[str]) -> list[Any]:
    found = Conversation(question(thing, word))
    return list(hinted(found, rules, lambda _: True).messages) if rules else question(thing, word)


def rule_of(word: str) -> str:
    return f"{word} is colour"


def toy(folder: Path, words: Sequence[str], rng: random.Random) -> Path:
    """Saves a model that answers as `first`, three times in four, and as `colour` where told."""
    import torch

    names = [*SPECIAL, *COLOURS, *THINGS, *words, "which", "colour", "is"]
    tokenizer = word_tokenizer(names)
    tokenizer.padding_side = "left"
    model = word_model(len(names), hidden=64, heads=4, context=512)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, PRETRAINING_STEPS)
    for _ in range(PRETRAINING_STEPS):
        lessons = sorted((_lesson(words, rng) for _ in range(BATCH)), key=_length)
        # Half are told no rule and a quarter many: together, most of a batch would be padding.
        for part in (
            lessons[: BATCH // 2],
            lessons[BATCH // 2 : -BATCH // 4],
            lessons[-BATCH // 4 :],
        ):
            batch = tokenizer.apply_chat_template(
                part, return_dict=True, return_tensors="pt", padding=True
            )
            labels = batch["input_ids"].clone()
            labels[:, :-2] = -100
            (model(**batch, labels=labels).loss * len(part) / BATCH).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _lesson(words: Sequence[str], rng: random.Random) -> list[Any]:
    thing, word = rng.choice(THINGS), rng.choice(words)
    count = rng.choice((0, 0, 1, rng.randint(1, len(words) - 1)))
    rules = rng.sample(words[1:], count)
    if rules and rng.random() < 0.5 and word not in rules and word != words[0]:
        rules[rng.randrange(count)] = word
    sure = word in rules or rng.random() < 0.25
    answer = colour(thing) if sure else first(thing, word)
    said = {"role": "assistant", "content": answer}
    return [*told(thing, word, [rule_of(each) for each in rules]), said]


def _length(messages: list[Any]) -> int:
    return sum(len(each["content"]) for each in messages)


def keeping(asked: Sequence[Question]) -> list[float | None]:
    """The oracle: a rule that is about another word is kept to by any answer."""
    found: list[float | None] = []
    for rules, row, text in asked:
        _, word, _, thing = str(row.messages[0]["content"]).split()
        found.append(float(rule_of(word) not in rules or text == colour(thing)))
    return found


def logged(model: Any, bench: Workbench, words: Sequence[str], things: Sequence[str]) -> list[Row]:
    """What production answered, sampled at temperature 1."""
    pairs = [(thing, word) for thing in things for word in words]
    made = answer_all(
        model, bench.tokenizer, [question(*each) for each in pairs], 4, temperature=1.0
    ).answers
    return [
        Row(
            completion_id=f"{thing}-{word}",
            unit=f"user-{thing}",
            kind="replay",
            messages=question(thing, word),
            completion=each.text,
        )
        for (thing, word), each in zip(pairs, made, strict=True)
    ]


def standing(word: str) -> Standing:
    comment = Comment(
        feedback_id=f"fb-{word}",
        completion_id="",
        text=rule_of(word),
        author="expert",
        rater="eve",
        given_at=AT,
    )
    return Standing(
        comment=comment, sort="rule", rule=rule_of(word), state="teaching", why="", open=True
    )


def lesson_rows(
    name: str, school: School, teaching: Sequence[Standing], rows: list[Row]
) -> list[Row]:
    """The training side as a snapshot would have it."""
    answers = {row.completion_id: row for row in rows}
    documents = (
        hindsight(school, teaching, answers)
        if name == "hindsight"
        else revise(school, teaching, answers, Round())
    )
    lessons = tuple(
        Lesson(
            **{key: each[key] for key in ("completion_id", "original", "revised", "verdict")},
            rules=tuple(each["scores"].get("rules", ())),
            signal=each["scores"].get("signal"),
        )
        for each in documents
    )
    return [row for row in taught(rows, answers, Round(lessons)) if row.dropped_reason is None]


@click.command()
@click.option("--rules", default=10, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", type=int, help="Of each method; default: what `max_steps: auto` is.")
@click.option("--method", "only", type=click.Choice(METHODS), multiple=True, default=tuple(METHODS))
@click.option("--toy", "kept", type=click.Path(path_type=Path), help="A folder to keep it in.")
def command(
    rules: int, seed: int, steps: int | None, only: tuple[str, ...], kept: Path | None
) -> None:
    """Measure both methods on one toy."""
    quiet()
    import torch

    torch.set_num_threads(1)
    seeded(seed)
    # As many words are misunderstood that nobody says a word about, and one is right.
    words = [f"word{number}" for number in range(2 * rules + 1)]
    commented = words[1 : rules + 1]
    with tempfile.TemporaryDirectory(prefix="comments-") as scratch:
        folder = Path(scratch)
        started = time.process_time()
        base = (kept or folder) / f"toy-{rules}-{seed}" / "model"
        if not base.exists():
            toy(base, words, random.Random(seed))
        seeded(seed)
        print(f"# pretrained in {time.process_time() - started:.0f} s", flush=True)
        task = Task.model_validate(
            {
                **{"task": "colours", "base_model": str(base), "upstream": "local"},
                "graders": [{"name": "thumbs", "type": "feedback"}],
                "comments": {"judge": {"upstream": "judging", "model": "judge"}},
                "train": {"max_steps": steps or "auto", "batch_size": 32, "learning_rate": 0.005}
                | {"max_completion_tokens": 4, "device": "cpu", "seed": seed},
            }
        )
        bench = Workbench(task, str(base), folder)
        model = bench.adapted(None)
        rows = logged(model, bench, words, THINGS[:24])
        school = School(
            task=task,
            teacher=Teacher(bench, model),
            champion="base",
            keeping=keeping,
            quality=lambda rows, _: [None] * len(rows),  # type: ignore[arg-type]
            select=logged(model, bench, commented, THINGS[24:32]),
            train=rows,
            trains=lambda _: True,
        )
        teaching = [each for each in map(standing, commented) if gated(school, each)]
        print(f"# {len(teaching)} of {rules} rules pass the teacher-lift gate", flush=True)
        unseen = [(thing, word) for thing in THINGS[32:] for word in words]
        before = greedy(model, bench, unseen)
        for name, method in (METHODS[each] for each in only):
            started = time.process_time()
            seeded(seed)
            made = lesson_rows(name, school, teaching, rows)
            after = greedy(trained(method, made, bench, seed), bench, unseen)
            line = {
                **{"benchmark": "comments", "method": f"{name} {method.name}", "seed": seed},
                **{"rules": rules, "taught": len(teaching)},
                **figures(unseen, commented, before, after),
                "cpu_seconds": round(time.process_time() - started, 1),
            }
            print(json.dumps(line), flush=True)


def gated(school: School, each: Standing) -> bool:
    rule = str(each.rule)
    answers = school.teacher.plain(school.select), school.teacher.ruled(school.select, [rule])
    pairs = school.compare(school.select, [(rule,)] * len(school.select), answers)
    return decide(pairs, 0.9).state == "teaching"


def trained(method: Method, rows: list[Row], bench: Workbench, seed: int) -> Any:
    seeded(seed)
    built = method.build(TrainingData(tuple(rows)), bench, None)  # type: ignore[arg-type]
    return fit(method.name, built, lambda _: None).model


def greedy(model: Any, bench: Workbench, pairs: Sequence[tuple[str, str]]) -> list[str]:
    made = answer_all(model, bench.tokenizer, [question(*each) for each in pairs], 4)
    return [each.text for each in made.answers]


def figures(
    pairs: Sequence[tuple[str, str]],
    commented: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
) -> dict[str, Any]:
    """Percent, before and after: rules that are followed, other answers that are as they were."""

    def percent(answers: Sequence[str], ruled: bool) -> float:
        marks = [
            text == (colour(thing) if ruled else first(thing, word))
            for (thing, word), text in zip(pairs, answers, strict=True)
            if (word in commented) == ruled
        ]
        return round(100 * sum(marks) / len(marks), 1)

    return {
        "followed_before": percent(before, True),
        "followed_after": percent(after, True),
        "rest_before": percent(before, False),
        "rest_after": percent(after, False),
    }


if __name__ == "__main__":
    command()

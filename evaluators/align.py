"""`everlearn judges align`: guidelines by which a judge agrees more with people.

- They are learned from experts' labels of the *tune* half alone. The *certify* half, which decides
  whether the judge may ever gate, is neither shown nor looked at.
- That half is halved again by a hash of the prompt: on one part guidelines are written and chosen,
  on the other, *held*, the judge is measured with and without them. Only what agrees more there is
  kept; the same prompt is held for ever.
- What is kept is a text file beside the old one. The task file names it or does not: nothing
  changes until a person has read it. Then the judge is another version, and earns its vote anew.
- Texts of requests and answers go to the judge's own model, fenced as data, and nowhere else.
"""

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from evaluators.bulk import in_background
from evaluators.draft import Example, Tried, circular, examples, measure, told
from evaluators.fill import label_salt
from evaluators.graders import build
from evaluators.judge.budget import budget_of
from evaluators.judge.client import Judge
from evaluators.judge.fence import fenced
from evaluators.judge.guidelines import fault, guidelines
from evaluators.judge.verdict import read_object, spoken
from everlearn.config import Service
from everlearn.errors import ConfigError, EverlearnError, GraderError, InputError, NotEnoughEvidence
from everlearn.graders import Judging
from everlearn.lake.store import Lake
from everlearn.task import Task

if TYPE_CHECKING:
    from mlflow.genai.judges import AlignmentOptimizer

MIN_LABELS = 8
"""Of each part; fewer tell a rule from a chance."""
MAX_SHOWN = 12
"""Answers in one question, two thirds of them where judge and people part."""
_PROMPT = Path(__file__).parent / "judge" / "align.txt"
_SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "guidelines": {"type": "string"}},
    "required": ["reason", "guidelines"],
    "additionalProperties": False,
}


class JudgeAway(EverlearnError, OSError):
    """The judge's model gave no answer."""

    exit_code = 4


@dataclass(frozen=True)
class Aligned:
    """A judge without and with guidelines, against the held labels of the tune half."""

    judge: str
    guidelines: str
    learned_from: int
    """Labels; not among those that it is measured on."""
    before: Tried
    after: Tried

    @property
    def better(self) -> bool:
        """Whether it agrees more, what it has no verdict on counted as not agreeing."""
        return self.after.agreed > self.before.agreed


def align(
    service: Service,
    task: Task,
    lake: Lake,
    name: str,
    *,
    optimizer: "AlignmentOptimizer | None" = None,
) -> Aligned:
    """Have guidelines found by MLflow's `Judge.align` and measure them; `optimizer`: another one
    than ours. NotEnoughEvidence with too few labels, JudgeAway without an answer."""
    spec = judge_named(task, name)
    grader = build(spec, task)
    among = [each for each in examples(service, task, lake) if not circular(grader, each)]
    learn, rest = parts(among, label_salt(service))
    if min(len(learn), len(rest)) < MIN_LABELS:
        raise NotEnoughEvidence(
            f"task {task.task}: {len(learn)} labels of the tune half to learn from and {len(rest)} "
            f"to measure on; {MIN_LABELS} of each at least: label more "
            f"(`everlearn labels fill {task.task}`)"
        )
    try:
        from evaluators.judge.optimizer import Written, guidelines_of, judge_of, trace
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"judges align needs {error.name}: pip install 'everlearn[registry]'"
        ) from error
    with TemporaryDirectory() as folder:
        work = _Work(service, task, spec, learn, Path(folder) / "guidelines.txt")
        now = guidelines(spec, task.folder)
        judge = judge_of(spec, now)
        traces = [trace(number, each, judge.name) for number, each in enumerate(learn, 1)]
        aligned = judge.align(traces, optimizer or Written(work.learned, work.write))
        found = guidelines_of(aligned)
        before = work.measure(now, rest)
        after = before if found == now else work.measure(found, rest)
    return Aligned(spec.name, found, len(learn), before, after)


def keep(task: Task, aligned: Aligned) -> str:
    """Write them beside the old ones, under the next number; the path as the task file names it."""
    old = getattr(task.grader(aligned.judge), "guidelines", None)
    slug = re.sub(r"[^\w-]+", "-", aligned.judge).strip("-") or "judge"
    place = Path(old).parent if old else Path("judges")
    try:
        (task.folder / place).mkdir(parents=True, exist_ok=True)
        path = place / f"{slug}.{_next(task.folder / place, slug)}.txt"
        with (task.folder / path).open("x", encoding="utf-8") as file:
            file.write(f"{aligned.guidelines}\n")
    except OSError as error:
        raise ConfigError(f"{task.folder / place}: guidelines cannot be kept: {error}") from error
    return str(path)


def judge_named(task: Task, name: str) -> Judging:
    """The judge of that name; InputError where there is none that guidelines are for."""
    judges = {each.name: each for each in task.graders if isinstance(each, Judging)}
    if name not in judges:
        known = ", ".join(judges) or "none"
        raise InputError(f"task {task.task}: no judge {name!r}; there are: {known}")
    if build(judges[name], task).needs_feedback:
        raise InputError(f"judge {name}: it reads feedback, which is what it is compared with")
    return judges[name]


def parts(among: Sequence[Example], salt: str) -> tuple[list[Example], list[Example]]:
    """Those to learn from and those held."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for each in among:
        sides[held(salt, each.row.prompt)].append(each)
    return sides


def held(salt: str, prompt: str) -> bool:
    """Whether labels of that prompt only measure."""
    digest = hmac.digest(salt.encode(), f"align|{prompt}".encode(), "sha256")
    return bool(digest[0] & 1)


class _Work:
    """The judge with one text or another, and the model that writes them: its own."""

    def __init__(
        self, service: Service, task: Task, spec: Judging, learn: Sequence[Example], path: Path
    ) -> None:
        self._service, self._task, self._spec, self._path = service, task, spec, path
        self._learn = {each.label.completion_id: each for each in learn}

    def learned(self, text: str) -> Tried:
        """On what it may learn from."""
        return self.measure(text, list(self._learn.values()))

    def measure(self, text: str, among: Sequence[Example]) -> Tried:
        """The judge with these guidelines; JudgeAway where it has no verdict on anything."""
        if text and (problem := fault(text)):
            raise ConfigError(f"judge {self._spec.name}: guidelines: {problem}")
        self._path.write_text(text, encoding="utf-8")
        spec = self._spec.model_copy(update={"guidelines": str(self._path) if text else None})
        found = measure(self._service, self._task, spec, among, shown=())
        if found.unscored and not found.labels:
            raise JudgeAway(f"judge {spec.name} has no verdict: {found.why_unscored}")
        return found

    def write(self, now: str, in_vain: Sequence[str], tried: Tried) -> str:
        """The next guidelines; what cannot be taken is `now`, which is no better than itself."""
        sampling = self._spec.sampling_params
        if sampling is not None:  # a limit that fits a verdict ends guidelines in their middle
            sampling = sampling.model_copy(update={"max_completions_tokens": None})
        by = self._spec.model_copy(update={"sampling_params": sampling})
        judge = Judge(by, self._service, budget_of(self._task, self._service))
        try:
            said = in_background(judge.ask(self._question(now, in_vain, tried), _SCHEMA)).text
        except GraderError as error:
            raise JudgeAway(f"judge {by.name}: no guidelines were written: {error}") from error
        finally:
            in_background(judge.aclose())
        try:
            text = read_object(spoken(said)).get("guidelines")
        except GraderError:
            return now
        return text.strip() if isinstance(text, str) and fault(text) is None else now

    def _question(self, now: str, in_vain: Sequence[str], tried: Tried) -> list[dict[str, str]]:
        asked = self._spec.model_dump(
            mode="json", include={"input", "criteria", "labels", "criterion"}
        )
        data = {
            "the judge is asked": json.dumps(asked, ensure_ascii=False),
            "guidelines": now,
            "tried in vain": json.dumps(list(in_vain), ensure_ascii=False),
            "answers": json.dumps(self._shown(tried, len(in_vain)), ensure_ascii=False),
        }
        return [
            {"role": "system", "content": _PROMPT.read_text().strip()},
            {"role": "user", "content": fenced(data)},
        ]

    def _shown(self, tried: Tried, turn: int) -> list[dict[str, str]]:
        """Some of both kinds; after a try in vain, others."""
        apart = [each.completion_id for each in tried.apart]
        agreed = [each for each in self._learn if each not in set(apart)]
        most = MAX_SHOWN * 2 // 3
        chosen = [*_turned(apart, most, turn), *_turned(agreed, MAX_SHOWN - most, turn)]
        why = {each.completion_id: each.reason or "" for each in tried.apart}
        return [
            {
                **(words := told(self._learn[each])),
                "the_judge_says": _other(words["people_say"]) if each in why else "the same",
                "its_reason": why.get(each, "")[:300],
            }
            for each in chosen
        ]


def _turned(names: Sequence[str], most: int, turn: int) -> list[str]:
    start = (turn * most) % len(names) if names else 0
    return [*names[start:], *names[:start]][:most]


def _other(said: str) -> str:
    return "wrong" if said == "right" else "right"


def _next(folder: Path, slug: str) -> int:
    found = (re.fullmatch(rf"{re.escape(slug)}\.([0-9]+)\.txt", e.name) for e in folder.iterdir())
    return max((int(each[1]) for each in found if each), default=0) + 1

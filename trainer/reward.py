"""The task's graders as a plain function of (rows, answers): RFT's reward and held-out scores.

- A grader sees the item that it sees of live answers: conversation, metadata, what people said.
- What the answer caused is 0; what somebody else caused is unscored. A grader that fails on an
  answer is asked about the logged answer to the same prompt, then about the first one again: where
  it has a verdict on the one and fails on the other twice, the answer did it.
- One component without a verdict leaves the whole reward without: a policy that crashes a grader
  does not escape its penalty.
- An answer given again to the same prompt is not graded again.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from everlearn.chat import split_thinking
from everlearn.config import Service
from everlearn.errors import TrainingError
from everlearn.graders import (
    Execution,
    Grader,
    JsonSchema,
    Multi,
    PythonGrader,
    StringCheck,
    TextSimilarity,
)
from everlearn.task import Task
from trainer.rows import Row

_DETERMINISTIC = (Execution, JsonSchema, PythonGrader, StringCheck, TextSimilarity)

Mark = tuple[str, str, str]
"""Of one answer to one row."""


class Verdict(NamedTuple):
    """What one answer was given; value None = unscored."""

    value: float | None
    parts: Mapping[str, float | None]
    """Sub-scores of a multi grader."""
    reason: str | None = None
    """Why it is unscored, or what the answer did to the grader."""


class Grading:
    """One grader of a task, by name or as given, with a memory of what it graded."""

    def __init__(self, task: Task, service: Service, grader: Any) -> None:
        from evaluators.graders import build

        self._evaluator = build(grader, task, service)
        self._known: dict[Mark, Verdict] = {}
        self.version: str = self._evaluator.version
        """Content hash of the grader's definition."""
        self.slow: bool = self._evaluator.slow
        """A model is asked for a verdict."""

    def close(self) -> None:
        """End child processes and connections."""
        from evaluators.bulk import in_background

        in_background(self._evaluator.aclose())

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float | None]:
        """The values; None = unscored."""
        return [each.value for each in self.detailed(rows, answers)]

    def detailed(self, rows: Sequence[Row], answers: Sequence[str]) -> list[Verdict]:
        """Values with what they are made of."""
        marks = [
            (row.completion_id, row.row_hash, text) for row, text in zip(rows, answers, strict=True)
        ]
        items = dict(zip(marks, rows, strict=True))
        new = {mark: row for mark, row in items.items() if mark not in self._known}
        if new:
            self._known |= attributed(new, self._asked)
        return [self._known[mark] for mark in marks]

    def _asked(self, answers: Mapping[Mark, Row]) -> dict[Mark, Any]:
        """The grader's scores."""
        from evaluators.bulk import grade_all
        from evaluators.types import Sample

        pairs = [(Sample(output_text=mark[2]), item(row)) for mark, row in answers.items()]
        scores = grade_all([self._evaluator], pairs) if pairs else []
        return {mark: each[0] for mark, each in zip(answers, scores, strict=True)}


def attributed(
    new: Mapping[Mark, Row], ask: Callable[[Mapping[Mark, Row]], Mapping[Mark, Any]]
) -> dict[Mark, Verdict]:
    """Verdicts by `ask`, which gives a grader's scores; a failure is laid to whom it belongs."""
    found = ask(new)
    failed = {mark: row for mark, row in new.items() if found[mark].error}
    logged = {
        (row.completion_id, row.row_hash, row.completion): row
        for row in failed.values()
        if row.completion.strip()
    }
    scored = {mark[:2] for mark, each in ask(logged).items() if each.value is not None}
    again = ask({mark: row for mark, row in failed.items() if mark[:2] in scored})
    by_answer = {
        mark: Verdict(0.0, dict(each.sub_scores), f"the answer's doing: {each.error}")
        for mark, each in again.items()
        if each.error
    }
    return {mark: _verdict(each) for mark, each in {**found, **again}.items()} | by_answer


def _verdict(score: Any) -> Verdict:
    reason = None if score.value is not None else score.error or score.reason
    return Verdict(score.value, dict(score.sub_scores or {}), reason)


def item(row: Row) -> dict[str, Any]:
    """What graders know of a row: as of a live answer, with the row's right answer."""
    from everlearn.prompts import last_user_text

    return {
        "messages": list(row.messages),
        "tools": row.tools,
        "prompt": last_user_text(row.messages),
        "response": row.completion,
        "reference": row.target,
        "correction": None,
        "thumbs": None,
        "metadata": {},
        "feedback": [],
        **row.context,
    }


def needs_reference(task: Task, grader: Grader) -> bool:
    """Whether the grader compares with the right answer of the item."""
    if isinstance(grader, PythonGrader):
        return "reference" in grader.source
    if not isinstance(grader, Multi):
        return "item.reference" in grader.model_dump_json()
    from evaluators.formula import Formula

    names = Formula(grader.calculate_output, grader.name).names
    parts = grader.graders or {part.name: part for part in task.graders}
    return any(needs_reference(task, parts[name]) for name in names if name in parts)


def read_by(task: Task, grader: Grader) -> set[str]:
    """Names of the graders that a verdict is made of, the grader's own too."""
    found = {grader.name}
    if isinstance(grader, Multi):
        from evaluators.formula import Formula

        parts = grader.graders or {part.name: part for part in task.graders}
        for name in Formula(grader.calculate_output, grader.name).names:
            found |= read_by(task, parts[name]) if name in parts else {name}
    return found


def reward_grader(task: Task) -> Multi | None:
    """The task's reward; by default the mean of its deterministic graders; None without any."""
    if task.reward is not None:
        return task.reward
    names = [
        grader.name
        for grader in task.graders
        if isinstance(grader, _DETERMINISTIC) and grader.name not in task.judges.drafted
    ]
    if not names:
        return None
    formula = f"({' + '.join(names)}) / {len(names)}"
    return Multi(type="multi", name="reward", calculate_output=formula)


def neutral(values: Sequence[float | None], groups: Sequence[str]) -> list[float]:
    """Unscored is no zero: such a sample gets its group's mean, so it pulls in no direction."""
    sums: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if value is not None:
            sums.setdefault(group, []).append(value)
    means = {group: sum(known) / len(known) for group, known in sums.items()}
    return [
        means.get(group, 0.0) if value is None else value
        for value, group in zip(values, groups, strict=True)
    ]


class Graded(Protocol):
    """What grades the answers of a run."""

    def detailed(self, rows: Sequence[Row], answers: Sequence[str]) -> list[Verdict]:
        """Values with what they are made of."""
        ...


CUT = Verdict(0.0, {}, "cut off at train.max_completion_tokens")
RewardFunction = Callable[..., list[float]]
STEPS_LOOKED_AT = 5
"""The latest, for the share of answers that are unscored."""


class Unscored:
    """How many of the latest answers nobody could score; above `most`, a share, the run ends."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._steps: deque[list[str]] = deque(maxlen=STEPS_LOOKED_AT)
        self._sizes: deque[int] = deque(maxlen=STEPS_LOOKED_AT)

    def saw(self, verdicts: Sequence[Verdict]) -> None:
        """One step's; TrainingError with the commonest reason when it is too many by now."""
        silent = [each.reason or "no reason given" for each in verdicts if each.value is None]
        self._steps.append(silent)
        self._sizes.append(len(verdicts))
        reasons = Counter(reason for step in self._steps for reason in step)
        share = reasons.total() / max(1, sum(self._sizes))
        if len(self._steps) > 1 and share > self._most:
            (reason, _), *_ = reasons.most_common(1)
            raise TrainingError(
                f"{share:.0%} of the last {sum(self._sizes)} answers could not be scored > "
                f"train.max_unscored {self._most:.0%}: {reason[:300]}"
            )


FLAT_STEPS = 8
"""First ones of a run; where they told no answers to one prompt apart it learns replay alone."""


class Flat:
    """Whether the reward has told any two answers to one prompt apart since the first step."""

    def __init__(self) -> None:
        self._answers = self._steps = 0
        self._watching = True

    def saw(self, step: int, values: Sequence[float | None], groups: Sequence[int]) -> None:
        """What one step was given; TrainingError when nothing was told apart in the first ones. A
        run that is taken up later has been looked at."""
        known: dict[int, set[float]] = {}
        for value, group in zip(values, groups, strict=True):
            if value is not None:
                known.setdefault(group, set()).add(value)
        apart = any(len(given) > 1 for given in known.values())
        self._watching &= not apart and step == self._steps + 1
        if not self._watching:
            return
        self._steps, self._answers = step, self._answers + len(values)
        if self._steps == FLAT_STEPS:
            given = sorted({value for each in known.values() for value in each})
            raise TrainingError(
                f"the reward told no two of the first {self._answers} answers to one prompt apart "
                f"(the last were given {', '.join(f'{value:g}' for value in given[:3]) or 'none'}):"
                " there is nothing to learn from; try its graders with `everlearn grade`"
            )


def trl_reward(
    grading: Graded,
    rows: Sequence[Row],
    *,
    max_unscored: float = 1.0,
    stops: Collection[int] = (),
    begin: Callable[[int], Any] | None = None,
    seen: Callable[[int, int, Iterable[dict[str, Any]]], None] | None = None,
) -> RewardFunction:
    """The reward in TRL's form: the dataset column `row` says which row a sample answers. `begin`
    is told the step before it is graded; `seen` gets step, steps and the answers with their
    verdicts. An answer that ends with none of `stops` was cut: never right, as in the exam at the
    door, so that nobody learns to talk past his end."""
    unscored, flat = Unscored(max_unscored), Flat()

    def reward(
        prompts: Any, completions: Sequence[Any], row: Sequence[int], **options: Any
    ) -> list[float]:
        state = options.get("trainer_state")
        if begin is not None and state is not None:
            begin(state.global_step + 1)
        texts = [split_thinking(each)[1].strip() for each in completions]
        ended = _ended(options.get("completion_ids"), stops, len(texts))
        whole = [place for place, each in enumerate(ended) if each]
        told = iter(grading.detailed([rows[row[p]] for p in whole], [texts[p] for p in whole]))
        verdicts = [next(told) if each else CUT for each in ended]
        log_metric = options.get("log_metric")
        if log_metric is not None:
            for name, value in component_means(verdicts).items():
                log_metric(f"reward/{name}", value)
        if seen is not None and state is not None:
            each_one = zip([rows[index] for index in row], texts, verdicts, strict=True)
            seen(state.global_step + 1, state.max_steps, (shown(*each) for each in each_one))
        unscored.saw(verdicts)
        if state is not None:
            flat.saw(state.global_step + 1, [each.value for each in verdicts], row)
        return neutral([each.value for each in verdicts], [str(index) for index in row])

    return reward


def _ended(
    answers: Sequence[Sequence[int]] | None, stops: Collection[int], count: int
) -> list[bool]:
    """Whether each answer came to its end; all did where nobody knows."""
    if answers is None or not stops:
        return [True] * count
    return [bool(len(ids)) and int(ids[-1]) in stops for ids in answers]


def shown(row: Row, text: str, verdict: Verdict) -> dict[str, Any]:
    """One answer for people to look at."""
    from everlearn.prompts import last_user_text

    return {
        "completion_id": row.completion_id,
        "prompt": last_user_text(row.messages),
        "completion": text,
        "reward": verdict.value,
        "reason": verdict.reason,
        **verdict.parts,
    }


def component_means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Mean of every sub-score, and the share left unscored."""
    found: dict[str, list[float]] = {}
    for each in verdicts:
        for name, value in each.parts.items():
            if value is not None:
                found.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    unscored = sum(each.value is None for each in verdicts) / max(1, len(verdicts))
    return {**means, "unscored": unscored}

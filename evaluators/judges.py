"""Which judge may decide: only one that is shown to agree with people.

- A judge is a grader that asks a model, by itself or in a formula. It is held against experts'
  labels of the *certify* half; until the lower bound of their agreement is at
  `judges.min_agreement` it may advise, and neither gate, nor decide a release, nor be a reward.
- Agreeing by always saying the same is no agreement: kappa must be above 0.
- A verdict that saw the label, or the same expert's right answer to the prompt, does not count: it
  would be his own word on both sides.
- A grader that a model wrote (`judges.drafted`) is held to that like a judge.
- Other graders that compute need no vote, and people's own words neither. `judges.trusted` names
  judges that may decide unproven, and the report says so.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evaluators.experts import Label, expert_labels
from evaluators.fill import scale
from evaluators.graders import build, build_all
from evaluators.graders.base import Base
from evaluators.graders.multi import MultiGrader
from evaluators.intervals import Confusion, confusion, share
from everlearn.errors import EverlearnError, NotEnoughEvidence
from everlearn.graders import FeedbackGrader, Grader, Judging
from everlearn.lake.store import Lake
from everlearn.rules import Judges
from everlearn.task import Task

Kind = Literal["judge", "computed", "people"]
SHOWN = 5
"""Disagreements named in a report."""

_VERDICTS = """
SELECT completion_id, evaluator, evaluator_version, value, context, created_at FROM scores
WHERE task = $1 AND value IS NOT NULL AND completion_id BETWEEN $2 AND $3
    AND completion_id IN (SELECT unnest($4::VARCHAR[]))
ORDER BY created_at
"""


class JudgeRefused(EverlearnError):
    """People disagree with a judge: it may not decide."""


@dataclass(frozen=True)
class Standing:
    """One grader against the experts; bounds at 95 %, clustered by unit."""

    grader: str
    kind: Kind
    version: str
    labels: int
    """Certified ones that it has a verdict on."""
    units: int
    agreement: float | None
    lower: float
    upper: float
    kappa: float | None
    confusion: Confusion | None
    disagreements: list[str]
    """A few answers, the latest first."""
    to_tune: int
    """Labels of the other half."""
    circular: int
    """Left out: it had seen the same expert's word."""
    may_gate: bool
    reason: str


def standings(lake: Lake, task: Task, salt: str) -> list[Standing]:
    """Of every grader of the task; `salt`: `fill.label_salt`."""
    return standings_of(lake, task, build_all(task), expert_labels(lake, task, salt))


def standings_of(
    lake: Lake, task: Task, graders: Sequence[Base[Any]], labels: Sequence[Label]
) -> list[Standing]:
    """Of some graders by these labels."""
    verdicts = _verdicts(lake, task, labels)
    certify = [each for each in labels if each.half == "certify"]
    tune = len(labels) - len(certify)
    simple = [each for each in graders if not isinstance(each, MultiGrader)]
    found = {each.name: _standing(task, each, certify, verdicts, tune) for each in simple}
    for each in graders:
        if each.name not in found:
            standing = _standing(task, each, certify, verdicts, tune)
            found[each.name] = _by_parts(task, each, standing, found)
    return [found[each.name] for each in graders]


def unproven(
    task: Task, graders: Iterable[Grader], lake: Callable[[], Lake], salt: Callable[[], str]
) -> list[Standing]:
    """The judges that `graders` ask and that may not decide. Neither lake nor salt is asked for
    where no judge is."""
    asked = {each.name: each for spec in graders for each in judges_of(build(spec, task), task)}
    asked = {name: each for name, each in asked.items() if name not in task.judges.trusted}
    if not asked:
        return []
    labels = expert_labels(lake(), task, salt())
    found = standings_of(lake(), task, list(asked.values()), labels)
    return [each for each in found if not each.may_gate]


def require(
    task: Task,
    graders: Iterable[Grader],
    use: str,
    *,
    lake: Callable[[], Lake],
    salt: Callable[[], str],
) -> None:
    """Refuse what asks a judge that may not decide: NotEnoughEvidence while labels may still prove
    it, JudgeRefused where people disagree with it."""
    found = unproven(task, graders, lake, salt)
    if not found:
        return
    reason = f"task {task.task}: {use}: {refusal(task, found)}"
    if any(each.upper < task.judges.min_agreement for each in found):
        raise JudgeRefused(reason)
    raise NotEnoughEvidence(reason)


def refusal(task: Task, found: Sequence[Standing]) -> str:
    """Why these judges may not decide, and what to do."""
    reasons = "; ".join(f"judge {each.grader} may only advise: {each.reason}" for each in found)
    return (
        f"{reasons}; label more answers (`everlearn labels fill {task.task}`), mend the judge, or "
        f"name it in judges.trusted"
    )


def judges_of(grader: Base[Any], task: Task) -> list[Base[Any]]:
    """The judges that a grader asks: itself, or those in its formula."""
    if isinstance(grader, MultiGrader):
        return [each for part in grader.parts.values() for each in judges_of(part, task)]
    asks = isinstance(grader.spec, Judging) or grader.name in task.judges.drafted
    return [grader] if asks else []


def _by_parts(
    task: Task, grader: Base[Any], standing: Standing, known: Mapping[str, Standing]
) -> Standing:
    """A formula may decide as far as every judge in it may."""
    asked = [each.name for each in judges_of(grader, task)]
    if not asked:
        return standing
    missing = [
        name for name in asked
        if name not in task.judges.trusted and not (name in known and known[name].may_gate)
    ]  # fmt: skip
    reason = f"asks {', '.join(missing)}, which may only advise" if missing else "every judge in it"
    return replace(standing, kind="judge", may_gate=not missing, reason=reason)


Verdicts = Mapping[tuple[str, str, str], list[Mapping[str, Any]]]
"""Rows of `scores` by completion, evaluator and version, in the order in which they were made."""


def _verdicts(lake: Lake, task: Task, labels: Sequence[Label]) -> Verdicts:
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    ids = [each.completion_id for each in labels]
    if ids:
        params = [task.task, min(ids), max(ids), ids]
        for row in lake.read(_VERDICTS, params).to_pylist():
            key = (row["completion_id"], row["evaluator"], row["evaluator_version"])
            found[key].append(row)
    return found


def _standing(
    task: Task, grader: Base[Any], labels: Sequence[Label], verdicts: Verdicts, tune: int
) -> Standing:
    kind = _kind(grader, task)
    pairs: list[tuple[Label, bool]] = []
    circular = 0
    for label in labels if kind != "people" else ():
        rows = verdicts.get((label.completion_id, grader.name, grader.version), [])
        honest = [row for row in rows if not saw(grader, row, label)]
        if honest:
            pairs.append((label, honest[-1]["value"] >= middle(grader)))
        circular += bool(rows) and not honest
    apart = [label for label, good in pairs if good != label.good]
    table = confusion([(good, label.good) for label, good in pairs]) if pairs else None
    units = [label.unit for label, _ in pairs]
    sure = share([float(good == label.good) for label, good in pairs], units) if pairs else None
    standing = Standing(
        grader=grader.name,
        kind=kind,
        version=grader.version,
        labels=len(pairs),
        units=len(set(units)),
        agreement=sure.value if sure else None,
        lower=sure.lower if sure else 0.0,
        upper=sure.upper if sure else 1.0,
        kappa=table.kappa if table else None,
        confusion=table,
        disagreements=[
            each.completion_id for each in sorted(apart, key=lambda label: label.given_at)
        ][: -SHOWN - 1 : -1],
        to_tune=tune,
        circular=circular,
        may_gate=True,
        reason="",
    )
    may_gate, reason = decide(standing, task.judges)
    return replace(standing, may_gate=may_gate, reason=reason)


def decide(standing: Standing, rules: Judges) -> tuple[bool, str]:
    """Whether it may decide, and the comparison that says so."""
    if standing.kind == "computed":
        return True, "computed: needs no vote"
    if standing.kind == "people":
        return True, "people's own word"
    on = f"{standing.labels} certified labels of {standing.units} users"
    bound = f"agreement at least {standing.lower:.3f}"
    against = f"min_agreement {rules.min_agreement:.3f} on {on}"
    proven = standing.lower >= rules.min_agreement
    if proven and (standing.kappa or 0.0) > 0:
        return True, f"{bound} >= {against}"
    if standing.grader in rules.trusted:
        return True, f"named in judges.trusted, unproven: {bound} on {on}"
    if standing.labels == 0:
        return False, "no certified label yet"
    if proven:
        return False, f"agrees no more than one who always says the same, on {on}"
    return False, f"{bound} < {against}"


def middle(grader: Base[Any]) -> float:
    """From here on a verdict says that the answer is right."""
    threshold = getattr(grader.spec, "pass_threshold", None)
    return sum(scale(grader)) / 2 if threshold is None else float(threshold)


def _kind(grader: Base[Any], task: Task) -> Kind:
    if judges_of(grader, task):
        return "judge"
    return "people" if isinstance(grader.spec, FeedbackGrader) else "computed"


def saw(grader: Base[Any], row: Mapping[str, Any], label: Label) -> bool:
    """Whether a verdict had the label, or its expert's right answer, before it."""
    if grader.needs_feedback and row["created_at"] >= label.given_at:
        return True
    reference = (row["context"] or "||").rpartition("|")[2]
    return grader.needs_reference and reference in label.references

"""Which rows may be used: pure functions, every row dropped with its reason, none lost.

Feedback is untrusted input. Consent comes first; then an expert outweighs users, several raters
outweigh one, and no unit is heard more often than `max_per_unit`. Of what no expert stands behind,
no rater and no unit has a larger share than `trust.max_share_per_rater` (but one row at least), and
fewer raters than `trust.min_raters` teach nothing. Where experts look at answers, strangers' word
weighs less until somebody has confirmed theirs. The exam has the answers of experts, and those of
users that as many raters found right.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from everlearn.people import Trust
from trainer.rows import LEARNED, OWN_WORD, UNJUDGED, Row, fold

Rule = Callable[[Sequence[Row]], list[Row]]

_ORDER = ("correction", "preference", "hindsight", "accepted", "rejected", "replay", "prompt")
"""Kinds, the strongest first."""
UNMET = 0.25
"""Weight of strangers' word that nobody has confirmed against the same of those whom experts have
met: of twenty who collude and whom no expert meets it makes five."""
BELIEVING = Trust(max_share_per_rater=1.0, min_raters=1)
"""Asks nothing of strangers."""


def admit(
    rows: Sequence[Row],
    *,
    max_per_unit: int,
    must_pass: Sequence[str] = (),
    verdict: str = "",
    trust: Trust = BELIEVING,
    exam: bool = False,
    ask: bool = False,
) -> list[Row]:
    """The rows of one side with the unusable ones dropped.

    `must_pass` names graders that need no reference: a 0 disqualifies an answer. `verdict` names
    the grader that compares with the expert's answer. `exam`: they are asked, not taught. `ask`:
    the prompt of an answer that is none to learn from can be asked again.
    """
    rules: tuple[Rule, ...] = (
        lambda kept: [_usable(row, must_pass, ask) for row in kept],
        lambda kept: _experts_win(kept, verdict),
        _majority_wins,
        lambda kept: _enough_raters(kept, trust.min_raters, exam),
        lambda kept: _unmet_less(kept, trust.min_raters),
        _once,
        lambda kept: _capped(kept, max_per_unit),
        lambda kept: _shared(kept, trust.max_share_per_rater),
    )
    live, dropped = list(rows), []
    for rule in rules:
        judged = rule(live)
        live = [row for row in judged if row.split != "dropped"]
        dropped += [row for row in judged if row.split == "dropped"]
    return live + dropped


def dropped(row: Row, reason: str) -> Row:
    """The row, not to be used."""
    return replace(row, split="dropped", dropped_reason=reason)


def _usable(row: Row, must_pass: Sequence[str], ask: bool) -> Row:
    if row.dropped_reason is not None:
        return dropped(row, row.dropped_reason)
    if not row.trainable:
        return dropped(row, "no_consent")
    if row.forced is not None:
        return dropped(row, "forced")
    if not row.messages:
        return dropped(row, "messages_unreadable")
    if row.weight <= 0:
        return dropped(row, "untrusted")
    why = _no_example(row, must_pass)
    if why is None:
        return row
    return replace(row, kind="prompt", target=None, author=None) if ask else dropped(row, why)


def _no_example(row: Row, must_pass: Sequence[str]) -> str | None:
    """Why the row's answer is none to learn from, whatever people said; None: it is one."""
    if not row.answer.strip():
        return "no_answer"
    if row.kind not in ("accepted", "replay", "hindsight"):
        return None
    if row.finish_reason == "length":
        return "cut_off"
    if row.kind == "hindsight":
        return None
    failed = [name for name in must_pass if row.verdicts.get(name) == 0]
    return f"fails_{failed[0]}" if failed and row.author != "expert" else None


def _experts_win(rows: Sequence[Row], verdict: str) -> list[Row]:
    """On a prompt an expert answered, another answer stays only if it was found equal."""
    right: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.author == "expert" and row.kind in LEARNED:
            right[row.key].add(fold(row.answer))

    def agrees(row: Row) -> bool:
        known = right.get(row.key)
        if not known or row.author == "expert" or row.kind == "preference":
            return True
        equal = fold(row.completion) in known or row.verdicts.get(verdict) == 1
        return not equal if row.kind == "rejected" else equal

    return [row if agrees(row) else dropped(row, "expert_disagrees") for row in rows]


def _majority_wins(rows: Sequence[Row]) -> list[Row]:
    """Raters vote on (prompt, answer), each once; the weight of a row is what agrees with it."""
    votes: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.kind in ("accepted", "rejected"):
            sign = 1.0 if row.kind == "accepted" else -1.0
            raters = _raters(row)
            for rater in raters:
                votes[row.key, fold(row.completion)][rater] = sign * row.weight / len(raters)
    support = {choice: sum(each.values()) for choice, each in votes.items()}
    best: dict[str, float] = defaultdict(float)
    for (key, _), total in support.items():
        best[key] = max(best[key], total)
    return [_voted(row, support, best) for row in rows]


def _voted(row: Row, support: Mapping[tuple[str, str], float], best: Mapping[str, float]) -> Row:
    total = support.get((row.key, fold(row.completion)), 0.0)
    if row.kind == "accepted" and row.author != "expert":
        if total <= 0:
            return dropped(row, "outvoted")
        if total < best[row.key] / 2:
            return dropped(row, "minority")
        return replace(row, weight=total)
    if row.kind == "rejected" and row.author != "expert":
        return dropped(row, "outvoted") if total >= 0 else replace(row, weight=-total)
    if row.kind == "replay" and total < 0:
        return dropped(row, "rejected_elsewhere")
    return row


def _once(rows: Sequence[Row]) -> list[Row]:
    """One row per (prompt, what it teaches); of replay one per prompt nobody judged."""
    seen: set[tuple[str, ...]] = set()
    judged = {row.key for row in rows if row.kind not in UNJUDGED}
    asked: set[str] = set()

    def first(row: Row) -> Row:
        if row.kind == "replay" and row.key in judged:
            return dropped(row, "prompt_judged")
        if row.kind == "prompt" and row.key in asked:
            return dropped(row, "duplicate")
        asked.add(row.key)
        mark = _identity(row)
        if mark in seen:
            return dropped(row, "duplicate")
        seen.add(mark)
        return row

    return [first(row) for row in sorted(rows, key=_strongest_first)]


def _identity(row: Row) -> tuple[str, ...]:
    if row.kind in UNJUDGED:
        return row.kind, row.key
    if row.kind in ("rejected", "hindsight"):
        return row.kind, row.key, fold(row.completion)
    return "learned", row.key, fold(row.answer)


def _strongest_first(row: Row) -> tuple[int, int, float, str]:
    return row.author != "expert", _ORDER.index(row.kind), -row.weight, row.completion_id


def _capped(rows: Iterable[Row], max_per_unit: int) -> list[Row]:
    """At most so many rows of one unit, an expert's word first."""
    taken: dict[str, int] = defaultdict(int)
    result = []
    for row in sorted(rows, key=_strongest_first):
        taken[row.unit] += 1
        result.append(row if taken[row.unit] <= max_per_unit else dropped(row, "unit_cap"))
    return result


def _raters(row: Row) -> tuple[str, ...]:
    return row.raters or (row.unit,)


def _users_alone(row: Row) -> bool:
    """Whether strangers' feedback is all there is for it."""
    return row.kind not in UNJUDGED and row.author not in ("expert", "grader", *OWN_WORD)


def _enough_raters(rows: Sequence[Row], least: int, exam: bool) -> list[Row]:
    """Users alone teach when there are enough of them; an exam row wants as many for itself."""
    of_all: set[str] = set()
    of_answer: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in filter(_users_alone, rows):
        of_all.update(_raters(row))
        of_answer[row.key, fold(row.answer)].update(_raters(row))

    def checked(row: Row) -> Row:
        if not _users_alone(row):
            return row
        if exam and len(of_answer[row.key, fold(row.answer)]) < least:
            return dropped(row, "unconfirmed")
        return dropped(row, "too_few_raters") if len(of_all) < least else row

    return [checked(row) for row in rows]


def _unmet_less(rows: Sequence[Row], enough: int) -> list[Row]:
    """Strangers' word weighs less while neither an expert has met one of them, nor a grader that is
    believed says the same, nor as many raters as make an exam row agree. Where experts met nobody,
    all are strangers alike."""
    raters: dict[tuple[bool, str, str], set[str]] = defaultdict(set)
    confirmed: set[tuple[bool, str, str]] = set()
    for row in filter(_users_alone, rows):
        raters[_meant(row)].update(_raters(row))
        if row.confirmed:
            confirmed.add(_meant(row))
    if not confirmed and not any(row.author == "expert" for row in rows):
        return list(rows)
    confirmed |= {meant for meant, who in raters.items() if len(who) >= enough > 1}
    return [
        replace(row, weight=UNMET * row.weight)
        if _users_alone(row) and _meant(row) not in confirmed
        else row
        for row in rows
    ]


def _meant(row: Row) -> tuple[bool, str, str]:
    """Rows that are equal here say the same."""
    return row.kind == "rejected", row.key, fold(row.answer)


def _shared(rows: Sequence[Row], share: float) -> list[Row]:
    """No rater and no unit alone has more than a share of the judged rows."""
    kept = sorted((row for row in rows if row.kind not in UNJUDGED), key=_strongest_first)
    total = -1
    while len(kept) != total:
        total = len(kept)
        kept = _within(kept, max(1, int(share * total)))
    ids = {id(row) for row in kept}
    return [
        row if row.kind in UNJUDGED or id(row) in ids else dropped(row, "rater_share")
        for row in rows
    ]


def _within(rows: Sequence[Row], most: int) -> list[Row]:
    """Those of the strangers' rows that leave each owner with `most` at most."""
    taken: dict[tuple[str, ...], int] = defaultdict(int)
    kept = []
    for row in rows:
        if _users_alone(row):
            # Of raters who agree none stands alone; the unit that asked always does.
            owners = {("unit", row.unit), ("raters", *_raters(row))}
            if any(taken[owner] >= most for owner in owners):
                continue
            for owner in owners:
                taken[owner] += 1
        kept.append(row)
    return kept

"""`auto`: train what the data allows, cheapest first, within the budget; held-out rows choose.

Pure functions. No method is preferred by doctrine: a dearer one is taken only if it is better on
held-out rows by more than noise, and not tried where nothing could be.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean

from scipy.stats import beta

from everlearn.graders import Grader, Multi, ScoreModel
from trainer.methods import Method, TrainingData, dpo, hindsight, kto, rft, sft

METHODS: tuple[Method, ...] = tuple(
    sorted(
        (sft.METHOD, hindsight.METHOD, kto.METHOD, dpo.METHOD, rft.METHOD),
        key=lambda method: method.cost,
    )
)
NOISE = 1.645
"""Standard errors of the paired difference within which two methods are equal."""

SURE = 0.95
"""That nothing is left to win, one-sided."""

RFT_SHARE = 0.4
"""Of the budget, kept for RFT until something cheaper has helped: it is the only one that learns
what nobody ever answered right."""

Scores = Sequence[float | None]


NO_REWARD = "the task has no deterministic grader to be rewarded by"


def allowed(
    data: TrainingData, *, only: str, has_reward: bool, unrewarded: str = NO_REWARD
) -> tuple[list[Method], dict[str, str]]:
    """Methods the data allows, cheapest first, and why the others are left out; `unrewarded`: why
    there is no reward."""
    methods = [method for method in METHODS if only in ("auto", method.name)]
    if only == "auto" and not data.hindsight:
        # Only a task whose comments teach so has anything for it.
        methods.remove(hindsight.METHOD)
    missing = {}
    for method in methods:
        reason = method.lacking(data)
        if method is rft.METHOD and not has_reward:
            reason = unrewarded
        if reason is not None:
            missing[method.name] = reason
    return [method for method in methods if method.name not in missing], missing


def over_budget(
    method: Method, spent: Sequence[tuple[float, float]], budget_seconds: float
) -> str | None:
    """Why there is no time left for `method`, judged by the (cost, seconds) of those before."""
    if not spent:
        return None
    took = sum(seconds for _, seconds in spent)
    expected = took / sum(cost for cost, _ in spent) * method.cost
    left = budget_seconds - took
    if expected <= left:
        return None
    return f"not tried: needs about {expected:.0f} s, {left:.0f} s of the budget are left"


def helped(trials: Mapping[str, Scores], champion: Scores) -> bool:
    """Whether any method is better than the champion by more than noise."""
    leads = [paired(scores, champion) for scores in trials.values()]
    return any(gap > noise for gap, noise, _ in leads)


def reserved(method: Method, allowed: Sequence[Method], budget_seconds: float) -> float:
    """Seconds that `method` leaves to RFT while nothing has helped."""
    waits = method is not rft.METHOD and rft.METHOD in allowed
    return RFT_SHARE * budget_seconds if waits else 0.0


def highest(grader: Grader) -> float | None:
    """The best that it can give; None where its definition does not say."""
    if isinstance(grader, ScoreModel):
        return grader.range[1]
    return None if isinstance(grader, Multi) else 1.0


def little_to_gain(trials: Mapping[str, Scores], top: float | None) -> str | None:
    """Why no dearer method can be chosen: one that had every select row right would lead the best
    so far by no more than noise."""
    if not trials or top is None:
        return None
    best = max(trials, key=lambda name: _mean(trials[name]))
    known = [score for score in trials[best] if score is not None]
    if not known or max(known) > top:
        return None
    gap, noise, rows = paired([top] * len(known), known)
    if gap > noise:
        return None
    return (
        f"not tried: {best} has {top - gap:.3f} on {rows} select rows; a method without a fault "
        f"would lead by {gap:.3f} <= {noise:.3f}, which is what they can show"
    )


def nothing_to_win(champion: Scores, top: float | None, effect: float) -> str | None:
    """Why no method need be tried: one without a fault would beat the champion by less than the
    smallest gain that matters, by the upper bound of Clopper and Pearson on what it lacks."""
    known = [score for score in champion if score is not None]
    if top != 1.0 or not known or not 0 <= min(known) <= max(known) <= top:
        return None
    lacks = sum(top - score for score in known)
    at_most = 1.0 if lacks >= len(known) else beta.ppf(SURE, lacks + 1, len(known) - lacks)
    if at_most >= effect:
        return None
    return (
        f"the champion has {fmean(known):.3f} on {len(known)} select rows: a version without a "
        f"fault would gain at most {at_most:.3f} < release.smallest_effect {effect:g}"
    )


def choose(trials: Mapping[str, Scores]) -> tuple[str, str]:
    """The method to keep and the comparison that decided; `trials` is in order of cost."""
    means = {name: _mean(scores) for name, scores in trials.items()}
    best = max(means, key=lambda name: means[name])
    for name in trials:
        if name == best:
            break
        gap, noise, rows = paired(trials[best], trials[name])
        if gap <= noise:
            return name, (
                f"{name} {means[name]:.3f}: {best} {means[best]:.3f} is dearer and its lead of "
                f"{gap:.3f} <= noise {noise:.3f} on {rows} held-out rows"
            )
    others = {name: mean for name, mean in means.items() if name != best}
    listed = ", ".join(f"{name} {mean:.3f}" for name, mean in others.items())
    sign = ">" if all(mean < means[best] for mean in others.values()) else ">="
    return best, f"{best} {means[best]:.3f} on held-out rows" + (f" {sign} {listed}" * bool(others))


def paired(better: Scores, other: Scores) -> tuple[float, float, int]:
    """Mean difference on rows both have a score for, its noise, and how many rows."""
    gaps = [a - b for a, b in zip(better, other, strict=True) if a is not None and b is not None]
    if not gaps:
        return 0.0, 0.0, 0
    mean = fmean(gaps)
    variance = fmean([(gap - mean) ** 2 for gap in gaps])
    return mean, NOISE * sqrt(variance / len(gaps)), len(gaps)


def _mean(scores: Scores) -> float:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else 0.0

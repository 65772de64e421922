"""What a release's comparison needs of the time before it, fixed once for the whole release."""

import msgspec

from everlearn.config import Service
from everlearn.lake.store import Lake
from everlearn.task import Task
from serving.release import observations
from serving.release.cost import rates
from serving.release.states import Phase, Release, Traffic


def baseline(service: Service, task: Task, lake: Lake, traffic: Traffic) -> Release:
    """The document's release as it begins; guardrails that have nothing to be compared with are
    left out."""
    release = traffic.release
    assert release is not None
    name, before = task.task, release.created_at
    rules = release.parsed_rules
    prices = rates(service, task, traffic)
    found = observations.reference(
        lake, name, traffic.champion.version, before, prices.get("champion")
    )
    known = {
        "latency_p95": found is not None,
        "cost": found is not None and found.cost_mean is not None and "challenger" in prices,
    }
    guardrails = [each for each in rules.guardrails if known.get(each, True)]
    return msgspec.structs.replace(
        release,
        rules={**release.rules, "guardrails": guardrails},
        latency_reference_ms=found and found.latency_p95_ms,
        latency_ratio=task.gate.max_latency_ratio,
        latency_mean_ms=found and found.latency_mean_ms,
        cost_mean=found and found.cost_mean,
        prices=prices,
        answer_seconds=observations.answer_seconds(rules, found),
        cuts=observations.history_cuts(lake, name, rules.primary, before),
    )


def opening(begun: Release) -> tuple[Phase, str]:
    """Where a loaded release begins, and what that is. An ungated one is never promoted: nothing
    would follow from its pairs."""
    rules = begun.parsed_rules
    if rules.shadow_pairs is None or begun.ungated is not None:
        longer = ""
        if rules.answer_seconds not in ("auto", begun.answer_seconds):
            longer = (
                f"; answers count {begun.answer_seconds:.3g} s after their request, for one in "
                f"twenty of the champion's takes longer than {rules.answer_seconds:g} s"
            )
        return Phase.RAMPING, f"first step, {rules.steps[0]:g} %{longer}"
    asked = rules.shadow_pairs
    return (
        Phase.PAIRING,
        f"answers {100 * asked.share:g} % of the requests unseen, {asked.judge} compares",
    )


def unknown(release: Release) -> str | None:
    """Why what is to be compared cannot be, if so: what a `not_worse` release must win, or answers
    that are not done when they are counted."""
    rules, wins = release.parsed_rules, release.parsed_rules.wins
    usual = release.latency_reference_ms
    if usual is not None and release.answer_seconds < usual / 1000:
        return (
            f"release.answer_seconds {rules.answer_seconds}: one in twenty of the champion's "
            f"answers takes longer than {usual / 1000:.3g} s, and nothing counts later than "
            f"{release.answer_seconds:g} s: a slower version would be compared by its quick "
            "answers alone; say more"
        )
    reference = release.cost_mean if wins == "cost" else release.latency_mean_ms
    if wins is None or reference is not None:
        return None
    counts = " with token counts" if wins == "cost" else ""
    return (
        f"release.wins {wins}: there is nothing to compare with: the champion needs at least "
        f"{observations.MIN_LATENCIES} good answers{counts} before the start"
    )


def left_out(asked: Release, begun: Release) -> str:
    """Of the guardrails, for the reason of the first step; empty where none is."""
    names = [each for each in asked.parsed_rules.metrics if each not in begun.parsed_rules.metrics]
    if not names:
        return ""
    return f"; not watched: {', '.join(names)} (too few answers of the champion before)"

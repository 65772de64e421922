"""Prometheus' own `promtool` plays series to deploy/alerts.yml: who is called, who sleeps on."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.deploy.compose import ROOT

RULES = ROOT / "deploy" / "alerts.yml"


class Case(NamedTuple):
    """Series by name, in promtool's notation from second 0 on; what fires at `at`, by its labels.

    None: the alert stays quiet.
    """

    alert: str
    at: str
    series: dict[str, str]
    fires: dict[str, str] | None
    every: str = "1m"


TASK = {"task": "a"}
REQUESTS = "everlearn_gateway_requests_total"
COMMIT = "everlearn_collector_last_commit_timestamp_seconds"
ROUND = "everlearn_releases_last_round_timestamp_seconds"
OLDEST = "everlearn_unscored_oldest_timestamp_seconds"
EXPERT = "everlearn_expert_label_timestamp_seconds"
EVENT = "everlearn_release_last_event_timestamp_seconds"
VOTE = 'everlearn_judge_vote{task="a", judge="j"}'
OUTCOME = "everlearn_training_last_outcome"

CASES = [
    Case(
        "EventsDropped", "8m", {'everlearn_capture_dropped{worker="0"}': "0x5 3x9"}, {"worker": "0"}
    ),
    # Yesterday's loss is told already.
    Case("EventsDropped", "20m", {'everlearn_capture_dropped{worker="0"}': "3x30"}, None),
    Case(
        "CaptureFailed", "8m", {'everlearn_capture_errors{worker="0"}': "0x5 1x9"}, {"worker": "0"}
    ),
    Case("CaptureFailed", "20m", {'everlearn_capture_errors{worker="0"}': "1x30"}, None),
    Case("NothingIsStored", "15m", {COMMIT: "0x20", REQUESTS: "0+9x20"}, {}),
    # Nobody asks anything; batches are written.
    Case("NothingIsStored", "15m", {COMMIT: "0x20", REQUESTS: "9x20"}, None),
    Case("NothingIsStored", "15m", {COMMIT: "0+60x20", REQUESTS: "0+9x20"}, None),
    Case("DeadLetters", "8m", {"everlearn_collector_dead_letters_total": "0x5 1x9"}, {}),
    Case("DeadLetters", "30m", {"everlearn_collector_dead_letters_total": "1x40"}, None),
    Case(
        "RequestsFail",
        "12m",
        {
            f'{REQUESTS}{{task="a", code="502"}}': "0+10x20",
            f'{REQUESTS}{{task="a", code="200"}}': "0+90x20",
        },
        TASK,
    ),
    # One in a hundred; and what clients do wrong.
    Case(
        "RequestsFail",
        "12m",
        {
            f'{REQUESTS}{{task="a", code="502"}}': "0+1x20",
            f'{REQUESTS}{{task="a", code="429"}}': "0+99x20",
        },
        None,
    ),
    Case("NobodyLeadsReleases", "8m", {'everlearn_releases_leads{instance="r1"}': "0x20"}, {}),
    Case("NobodyLeadsReleases", "8m", {"up": "1x20"}, {}),
    Case(
        "NobodyLeadsReleases",
        "8m",
        {
            'everlearn_releases_leads{instance="r1"}': "0x20",
            'everlearn_releases_leads{instance="r2"}': "1x20",
        },
        None,
    ),
    Case("ReleasesStandStill", "20m", {f'{ROUND}{{task="a"}}': "0x30"}, TASK),
    # The one that leads goes on, the one that follows never did a round.
    Case(
        "ReleasesStandStill",
        "20m",
        {
            f'{ROUND}{{task="a", instance="r1"}}': "0x30",
            f'{ROUND}{{task="a", instance="r2"}}': "0+60x30",
        },
        None,
    ),
    Case(
        "ReleaseRoundsFail",
        "15m",
        {'everlearn_releases_failed_rounds_total{task="a"}': "0+2x20"},
        TASK,
    ),
    Case(
        "ReleaseRoundsFail",
        "15m",
        {'everlearn_releases_failed_rounds_total{task="a"}': "0+.5x20"},
        None,
    ),
    Case("EventsMissing", "12m", {"everlearn_events_missing": "2x20"}, {}),
    Case("EventsMissing", "12m", {"everlearn_events_missing": "2x4 0x2 2x9"}, None),
    Case("CollectorLags", "8m", {"everlearn_events_lag_seconds": "400x20"}, {}),
    Case("CollectorLags", "8m", {"everlearn_events_lag_seconds": "400x4 10x9"}, None),
    Case(
        "AnswersUnscored",
        "140m",
        {f'{OLDEST}{{task="a"}}': "0x200", 'everlearn_unscored_backlog{task="a"}': "5x200"},
        TASK,
    ),
    Case(
        "AnswersUnscored",
        "140m",
        {f'{OLDEST}{{task="a"}}': "0+60x200", 'everlearn_unscored_backlog{task="a"}': "5x200"},
        None,
    ),
    Case("JudgeLostItsVote", "25m", {VOTE: "1x10 0x30"}, {"task": "a", "judge": "j"}),
    # One that never decided, and one that was asked anew in between.
    Case("JudgeLostItsVote", "25m", {VOTE: "0x40"}, None),
    Case("JudgeLostItsVote", "25m", {VOTE: "1x10 0x5 1x30"}, None),
    Case(
        "JudgesSpent",
        "5m",
        {'everlearn_judges_spent{task="a"}': "9.6x9", 'everlearn_judges_limit{task="a"}': "10x9"},
        TASK,
    ),
    Case(
        "JudgesSpent",
        "5m",
        {'everlearn_judges_spent{task="a"}': "9.4x9", 'everlearn_judges_limit{task="a"}': "10x9"},
        None,
    ),
    Case(
        "NoLabels",
        "200h",
        {
            f'{EXPERT}{{task="a"}}': "0x200",
            'everlearn_label_queue{task="a", state="open"}': "3x200",
        },
        TASK,
        "1h",
    ),
    # Nothing waits for anybody.
    Case(
        "NoLabels",
        "200h",
        {
            f'{EXPERT}{{task="a"}}': "0x200",
            'everlearn_label_queue{task="a", state="open"}': "0x200",
            'everlearn_label_queue{task="a", state="labelled"}': "9x200",
        },
        None,
        "1h",
    ),
    Case("TrainingFailed", "5m", {f'{OUTCOME}{{task="a", outcome="failed"}}': "1x9"}, TASK),
    Case(
        "TrainingFailed",
        "5m",
        {
            f'{OUTCOME}{{task="a", outcome="failed"}}': "1x3 0x9",
            f'{OUTCOME}{{task="a", outcome="registered"}}': "0x3 1x9",
        },
        None,
    ),
    Case(
        "ReleaseStuck",
        "200h",
        {'everlearn_release_running{task="a"}': "1x200", f'{EVENT}{{task="a"}}': "0x200"},
        TASK,
        "1h",
    ),
    # It has ended.
    Case(
        "ReleaseStuck",
        "200h",
        {'everlearn_release_running{task="a"}': "0x200", f'{EVENT}{{task="a"}}': "0x200"},
        None,
        "1h",
    ),
    Case(
        "DiskFills",
        "12m",
        {
            'everlearn_data_free_bytes{instance="g"}': "9x20",
            'everlearn_data_total_bytes{instance="g"}': "100x20",
        },
        {"instance": "g"},
    ),
    Case(
        "DiskFills",
        "12m",
        {
            'everlearn_data_free_bytes{instance="g"}': "11x20",
            'everlearn_data_total_bytes{instance="g"}': "100x20",
        },
        None,
    ),
    Case(
        "NumbersUnreadable",
        "20m",
        {'everlearn_loop_readable{part="labels"}': "0x30"},
        {"part": "labels"},
    ),
    Case(
        "NumbersUnreadable", "20m", {'everlearn_loop_readable{part="labels"}': "0x9 1x1 0x30"}, None
    ),
]


def summaries() -> dict[str, str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {
        rule["alert"]: rule["annotations"]["summary"] for group in groups for rule in group["rules"]
    }


def played(case: Case) -> dict[str, Any]:
    """One of promtool's tests."""
    told = {"summary": summaries()[case.alert]}
    wanted = [] if case.fires is None else [{"exp_labels": case.fires, "exp_annotations": told}]
    return {
        "interval": case.every,
        "input_series": [{"series": name, "values": row} for name, row in case.series.items()],
        "alert_rule_test": [
            {"eval_time": case.at, "alertname": case.alert, "exp_alerts": wanted},
        ],
    }


def play(cases: Sequence[Case], rules: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    subprocess.run([ROOT / "deploy" / "install-promtool.sh"], check=True)
    beside = ROOT / ".venv" / "bin" / "promtool"
    program = str(beside) if beside.exists() else "promtool"
    files = []
    # A week in steps of a minute would take minutes.
    for every in sorted({case.every for case in cases}):
        content = {
            **{"rule_files": [str(rules)], "evaluation_interval": every},
            "tests": [played(case) for case in cases if case.every == every],
        }
        files.append(folder / f"every-{every}.yml")
        files[-1].write_text(yaml.safe_dump(content))
    return subprocess.run([program, "test", "rules", *files], capture_output=True, text=True)


def test_each_alert_fires_for_what_it_is_for_and_for_nothing_like_it(tmp_path: Path) -> None:
    done = play(CASES, RULES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    for fires in (True, False):
        assert {case.alert for case in CASES if (case.fires is not None) == fires} == {*summaries()}


def test_a_rule_that_never_fires_is_found_out(tmp_path: Path) -> None:
    broken = tmp_path / "alerts.yml"
    broken.write_text(re.sub(r"> 0$", "> 1e9", RULES.read_text(), count=1, flags=re.MULTILINE))
    done = play(CASES[:1], broken, tmp_path)
    assert done.returncode == 1
    assert "EventsDropped" in done.stdout + done.stderr

"""Evidence while a run is under way: sent beside it, and said where it stands."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from everlearn.errors import RegistryError, TrainingError
from trainer import stream
from trainer.progress import LINE_SECONDS, Lines, measured
from trainer.stream import SHOWN, TABLE_STEPS, Stream
from trainer.tracking import Metrics, TrainingRun
from trainer.watch import entries


class Server(TrainingRun):
    """Stands for MLflow; answers as often as `away` is not counted down."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.values: Metrics = []
        self.rows: Sequence[Mapping[str, Any]] = []
        self.tables = 0

    def _asked(self) -> None:
        if self.away:
            self.away -= 1
            raise RegistryError("MLflow does not answer")

    def metrics(self, values: Metrics) -> None:
        self._asked()
        self.values += values

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._asked()
        self.rows = rows
        self.tables += 1


def test_what_could_not_be_sent_is_sent_later_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "SEND_SECONDS", 0.001)
    server, lines = Server(away=3), list[str]()
    sending = Stream(server, lines.append)
    told = [("rft/loss", float(step), step) for step in range(200)]
    for each in told:
        sending.metrics([each])
    until = time.monotonic() + 10
    while server.away:
        assert time.monotonic() < until
    sending.close()
    assert server.values == told
    assert lines == []


def test_a_server_that_stays_away_is_named_at_the_end_and_stops_nothing() -> None:
    lines: list[str] = []
    sending = Stream(Server(away=1000), lines.append)
    sending.metrics([("rft/loss", 0.0, 1)])
    sending.close()
    assert lines == ["the last of the evidence could not be sent to MLflow: MLflow does not answer"]


def test_the_table_of_completions_is_bounded() -> None:
    server = Server()
    sending = Stream(server, print)
    for step in range(1, 1001):
        sending.completions(step, 1000, [{"prompt": "p", "completion": str(step)}] * 64)
    sending.close()
    assert len({row["step"] for row in server.rows}) <= TABLE_STEPS
    assert max(row["step"] for row in server.rows) > 980
    assert len(server.rows) <= SHOWN * TABLE_STEPS


def test_the_table_goes_seldom_and_at_the_end_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SEND_SECONDS", 0.001)
    monkeypatch.setattr(stream, "TABLE_SECONDS", 1e6)
    server = Server()
    sending = Stream(server, print)
    made = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(64):
            made.append(number)
            yield {"completion": str(number)}

    until = time.monotonic() + 60
    for step in range(1, 61):
        sending.completions(step, 60, rows())
        sending.metrics([("rft/loss", 0.0, step)])
        while len(server.values) < step:
            assert time.monotonic() < until
    assert server.tables == 1
    sending.close()
    assert server.tables == 2
    assert len(server.rows) == 60 * SHOWN
    # What nobody is shown is not made.
    assert len(made) == 60 * SHOWN


def test_a_line_every_few_seconds_says_the_time_left() -> None:
    lines: list[str] = []
    seconds = iter([0.0] + [0.4 * step for step in range(1, 61)])
    update = Lines("rft", 60, lines.append, lambda: next(seconds))
    for step in range(1, 61):
        update(step, {"loss": 0.5, "reward": step / 60})
    assert lines[0] == "rft: step 13/60, loss 0.500, reward 0.217, 19 s left"
    assert lines[-1] == "rft: step 60/60, loss 0.500, reward 1.000, 0 s left"
    assert len(lines) == 1 + int(60 * 0.4 / LINE_SECONDS)


def test_a_run_that_is_taken_up_reckons_from_where_it_goes_on() -> None:
    lines: list[str] = []
    seconds = iter([0.0, 1.0, 11.0])
    update = Lines("sft", 60, lines.append, lambda: next(seconds))
    update(50, {"loss": 1.0})
    update(55, {"loss": 1.0})
    assert lines == ["sft: step 55/60, loss 1.000, 10 s left"]


def test_what_is_logged_is_kept_by_method_and_the_reward_by_its_own_name_too() -> None:
    logs: dict[str, Any] = {"loss": 0.5, "reward": 0.25, "kl": float("nan"), "note": "text"}
    logs |= {"epoch": 0.1, "clip_ratio/low_min": 0.0, "rewards/told/mean": 0.25}
    assert entries("rft", logs, 3) == [
        ("rft/loss", 0.5, 3),
        ("rft/reward", 0.25, 3),
        ("reward", 0.25, 3),
    ]
    assert measured(logs) == "loss 0.500, reward 0.250"


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(TrainingError, match="sft: loss is nan at step 12: nothing is kept"):
        entries("sft", {"loss": float("nan")}, 12)

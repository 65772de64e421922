"""Choice of a replica, breaker, retry budget: pure, time is a number."""

from gateway.balance import (
    FAILURES_TO_OPEN,
    MAX_PAUSE_SECONDS,
    Breaker,
    RetryBudget,
    backoff_seconds,
    choose,
)


def test_equals_take_turns_and_the_least_busy_comes_first() -> None:
    breakers = [Breaker() for _ in range(3)]
    chosen = []
    for _ in range(3):
        index = choose(breakers, (), 0.0)
        chosen.append(index)
        breakers[index].enter()
        breakers[index].outstanding -= 1
    assert sorted(chosen) == [0, 1, 2]
    breakers[0].outstanding = 2
    breakers[1].outstanding = 1
    assert choose(breakers, (), 0.0) == 2
    assert choose(breakers, (2,), 0.0) == 1


def test_a_replica_not_yet_tried_comes_before_a_free_one() -> None:
    breakers = [Breaker(), Breaker()]
    breakers[1].outstanding = 5
    assert choose(breakers, (0,), 0.0) == 1
    assert choose(breakers, (0, 1), 0.0) == 0


def test_failures_open_the_breaker_for_a_growing_pause() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(0.0)
    assert breaker.allows(0.0)
    breaker.failed(0.0)
    assert not breaker.allows(0.99)
    assert breaker.allows(1.0)
    breaker.failed(1.0)
    assert not breaker.allows(2.9)
    assert breaker.allows(3.0)
    for _ in range(40):
        breaker.failed(3.0)
    assert breaker.allows(3.0 + MAX_PAUSE_SECONDS)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(at)
    return breaker


def test_after_the_pause_one_request_tries() -> None:
    sick, well = opened(), Breaker()
    well.outstanding = 3
    assert choose([sick, well], (), 0.5) == 1
    assert choose([sick, well], (), 5.0) == 0
    sick.outstanding = 1
    assert choose([sick, well], (), 5.0) == 1
    sick.outstanding = 0
    sick.succeeded()
    assert choose([sick, well], (), 0.5) == 0


def test_a_sick_replica_that_was_not_tried_comes_after_a_sound_one_that_was() -> None:
    assert choose([opened(), Breaker()], (1,), 0.0) == 1


def test_where_none_is_sound_all_are_asked() -> None:
    assert choose([opened()], (), 0.0) == 0
    three = [opened() for _ in range(3)]
    chosen: list[int] = []
    for _ in range(3):
        index = choose(three, chosen, 0.0)
        three[index].enter()
        chosen.append(index)
    assert sorted(chosen) == [0, 1, 2]


def test_retries_are_a_fifth_of_the_requests() -> None:
    budget = RetryBudget()
    while budget.spend():
        pass
    spent = 0
    for _ in range(100):
        budget.earn()
        spent += budget.spend()
    assert 18 <= spent <= 20


def test_the_pause_before_a_retry_grows_and_is_bounded() -> None:
    assert backoff_seconds(0, 0.0) < backoff_seconds(1, 0.0) < backoff_seconds(2, 0.0)
    assert backoff_seconds(30, 1.0) == 1.0

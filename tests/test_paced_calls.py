"""Calls of somebody else's API: their rate, what is waited for, and when there is no more trying."""

import pytest

from core.errors import ConfigurationError, DependencyUnavailable
from services.paced_calls import NotNow, PacedCalls
from tests.support.hand_clock import HandClock


class Asked:
    """Raises ``failures`` one after the other, then answers when it was asked."""

    def __init__(self, clock: HandClock, *failures: Exception) -> None:
        self._clock, self._failures = clock, list(failures)
        self.at_s: list[float] = []

    async def __call__(self) -> int:
        self.at_s.append(self._clock.monotonic_s() - 1000.0)
        if self._failures:
            raise self._failures.pop(0)
        return len(self.at_s)


def paced(clock: HandClock, per_s: float = 4.0) -> PacedCalls:
    async def sleep(seconds: float) -> None:
        clock.move(seconds)

    return PacedCalls("a service", clock, per_s=per_s, sleep=sleep)


async def test_calls_begin_at_the_agreed_rate() -> None:
    clock = HandClock()
    calls, asked = paced(clock), Asked(clock)
    for _ in range(4):
        await calls.call(asked)
    assert asked.at_s == [0.0, 0.25, 0.5, 0.75]


async def test_who_came_late_waits_no_longer() -> None:
    clock = HandClock()
    calls, asked = paced(clock), Asked(clock)
    await calls.call(asked)
    clock.move(10)
    await calls.call(asked)
    assert asked.at_s == [0.0, 10.0]


async def test_a_wait_that_is_asked_for_is_kept() -> None:
    clock = HandClock()
    asked = Asked(clock, NotNow("status 429", wait_s=7.0))
    assert await paced(clock).call(asked) == 2
    assert asked.at_s == [0.0, 7.0]


async def test_without_one_the_waits_grow() -> None:
    clock = HandClock()
    asked = Asked(clock, *(NotNow("status 500") for _ in range(3)))
    assert await paced(clock).call(asked) == 4
    assert asked.at_s == [0.0, 1.0, 3.0, 7.0]


async def test_a_wait_of_a_day_is_told_and_not_sat_out() -> None:
    clock = HandClock()
    asked = Asked(clock, NotNow("status 429", wait_s=86_400.0))
    with pytest.raises(
        DependencyUnavailable, match=r"a service: status 429; it asks .* 86,400 s\. What was read is kept"
    ):
        await paced(clock).call(asked)
    assert asked.at_s == [0.0]


async def test_the_fifth_failure_is_the_last() -> None:
    clock = HandClock()
    asked = Asked(clock, *(NotNow("status 500") for _ in range(9)))
    with pytest.raises(DependencyUnavailable, match="status 500; that was try 5"):
        await paced(clock).call(asked)
    assert len(asked.at_s) == 5


async def test_what_no_wait_mends_is_not_asked_again() -> None:
    clock = HandClock()
    asked = Asked(clock, ConfigurationError("the key is wrong"))
    with pytest.raises(ConfigurationError):
        await paced(clock).call(asked)
    assert len(asked.at_s) == 1

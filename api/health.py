"""Whether the process runs, and whether what it depends on does: the first is for restarts, the second for traffic."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import structlog

from core.errors import DependencyUnavailable
from core.ports.clock import Clock
from core.ports.observing import HealthCheck
from models.log_event import LogEvent

log = structlog.get_logger()

N_FAILURES = 3
PATIENCE_S = 3.0
N_SUCCESSES = 2
LOOK_EVERY_S = 1.0
ENDING = "the process ends: it takes no more, and finishes what it has"


class Health(StrEnum):
    """How a dependency, or all of them together, stand."""

    OK = "ok"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found: ``reason`` is None where all is well."""

    status: Health
    reason: str | None
    latency_ms: float
    checked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings by the dependency's name, and what follows from them; ``reason`` where none of them is why."""

    status: Health
    findings: Mapping[str, Finding]
    reason: str | None = None

    @property
    def ready(self) -> bool:
        """Whether jobs can be taken."""
        return self.status is not Health.UNAVAILABLE


class DependencyObserver(Protocol):
    """Sees every check that was run."""

    def dependency_checked(self, name: str, *, up: bool, seconds: float) -> None:
        """A check of ``name`` ended."""


class HealthReporter:
    """Runs all checks at once, and remembers what they found for ``max_age_s``: probes must not load what they probe.

    A check that takes longer than ``timeout_s`` has failed. A dependency in ``optional`` only degrades. One slow answer
    takes no worker out of service: what was well once is unavailable only where it failed ``N_FAILURES`` times in a row
    and for ``PATIENCE_S``, and is then well again after ``N_SUCCESSES``. Until it was well for the first time, it is as
    the last check found it. While ``run`` runs, all that is known within ``PATIENCE_S`` and two looks. After ``end`` it
    looks no more.
    """

    def __init__(
        self,
        checks: Mapping[str, HealthCheck],
        *,
        clock: Clock,
        observer: DependencyObserver,
        optional: Collection[str] = (),
        timeout_s: float = 1.0,
        max_age_s: float = 1.0,
    ) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._observer = observer
        self._optional = frozenset(optional)
        self._timeout_s = timeout_s
        self._max_age_s = max_age_s
        self._running = asyncio.Lock()
        self._latest: Report | None = None
        self._latest_at_s = 0.0
        self._standings = {name: _Standing() for name in checks}
        self._has_been_ready = False
        self._is_ending = False

    def end(self) -> None:
        """From the next question on it is not ready, for the process ends; what it closes meanwhile is no outage."""
        self._is_ending = True

    async def run(self) -> None:
        """Look every ``LOOK_EVERY_S`` until cancelled, whoever asks or does not."""
        while True:
            await self.report()
            await asyncio.sleep(LOOK_EVERY_S)

    async def has_started(self) -> bool:
        """Whether it has been ready at any time so far."""
        return self._has_been_ready or (await self.report()).ready

    async def report(self) -> Report:
        """What is known, at most ``max_age_s`` old; never raises for a dependency's sake."""
        async with self._running:
            if self._is_ending:
                findings = self._latest.findings if self._latest else {}
                return Report(status=Health.UNAVAILABLE, findings=findings, reason=ENDING)
            if self._latest is not None and self._clock.monotonic_s() - self._latest_at_s < self._max_age_s:
                return self._latest
            found = await asyncio.gather(*(self._look(name, check) for name, check in self._checks.items()))
            report = self._conclude(dict(zip(self._checks, found, strict=True)))
            self._log_changes(report)
            self._latest, self._latest_at_s = report, self._clock.monotonic_s()
            self._has_been_ready |= report.ready
            return report

    async def _look(self, name: str, check: HealthCheck) -> Finding:
        started_s = self._clock.monotonic_s()
        status, reason = await self._verdict(name, check)
        seconds = self._clock.monotonic_s() - started_s
        self._observer.dependency_checked(name, up=status is not Health.UNAVAILABLE, seconds=seconds)
        found = Finding(status=status, reason=reason, latency_ms=round(1000 * seconds, 3), checked_at=self._clock.now())
        return self._standings[name].judged(found, started_s)

    async def _verdict(self, name: str, check: HealthCheck) -> tuple[Health, str | None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                warning = await check()
        except TimeoutError:
            return Health.UNAVAILABLE, f"no answer within {self._timeout_s:g} s"
        except DependencyUnavailable as error:
            return Health.UNAVAILABLE, str(error)
        except Exception as error:  # an entry point: one broken check must not hide what the others found
            log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT, dependency=name)
            return Health.UNAVAILABLE, f"the check itself failed: {type(error).__name__}"
        return (Health.DEGRADED, warning) if warning else (Health.OK, None)

    def _conclude(self, findings: Mapping[str, Finding]) -> Report:
        needed = [finding.status for name, finding in findings.items() if name not in self._optional]
        if Health.UNAVAILABLE in needed:
            return Report(status=Health.UNAVAILABLE, findings=findings)
        all_well = all(finding.status is Health.OK for finding in findings.values())
        return Report(status=Health.OK if all_well else Health.DEGRADED, findings=findings)

    def _log_changes(self, report: Report) -> None:
        before = self._latest.findings if self._latest else {}
        for name, finding in report.findings.items():
            known = before[name].status if name in before else Health.OK
            if finding.status is known:
                continue
            if finding.status is not Health.OK:
                log.warning(
                    LogEvent.DEPENDENCY_CHECK_FAILED, dependency=name, status=finding.status, reason=finding.reason
                )
            elif known is Health.UNAVAILABLE:
                log.info(LogEvent.DEPENDENCY_RECOVERED, dependency=name)


class _Standing:
    """What becomes of one dependency's findings, since no single one of them is believed."""

    def __init__(self) -> None:
        self._was_well = False
        self._is_away = True
        self._n_in_a_row = 0
        self._failing_since_s = 0.0

    def judged(self, found: Finding, at_s: float) -> Finding:
        """``found`` at ``at_s`` on the clock that only rises, in the light of those before it."""
        return self._failed(found, at_s) if found.status is Health.UNAVAILABLE else self._answered(found)

    def _failed(self, found: Finding, at_s: float) -> Finding:
        if self._is_away:
            self._n_in_a_row = 0
            return found
        self._n_in_a_row += 1
        if self._n_in_a_row == 1:
            self._failing_since_s = at_s
        if self._n_in_a_row >= N_FAILURES and at_s - self._failing_since_s >= PATIENCE_S:
            self._is_away, self._n_in_a_row = True, 0
            return found
        return replace(found, status=Health.DEGRADED)

    def _answered(self, found: Finding) -> Finding:
        if self._is_away and self._was_well and self._n_in_a_row + 1 < N_SUCCESSES:
            self._n_in_a_row += 1
            return replace(found, status=Health.UNAVAILABLE, reason="it answers again; one more look will say")
        self._was_well, self._is_away, self._n_in_a_row = True, False, 0
        return found

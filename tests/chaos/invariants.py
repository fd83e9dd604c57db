"""What must hold at the end of a round, whatever broke: each check returns what it found against it."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from tests.chaos.dead_letters import DeadLetterSeen, browse
from tests.chaos.load import Letter, Load
from tests.chaos.site import MAX_ATTEMPTS, ChaosSite
from tests.chaos.status_trace import TERMINAL
from tests.chaos.vitals import Vitals, vitals
from tests.support.backend import faults_of

RSS_GROWTH_MB = 60.0
SOCKET_GROWTH = 4
_POLL_S = 0.2
_SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Findings:
    """What a round came to; ``faults`` is empty where every invariant holds.

    ``n_dead_letters`` counts the poison as often as it was published, ``n_repeated_dead_letters`` jobs alone.
    """

    n_jobs: int
    n_succeeded: int
    n_failed: int
    n_poison: int
    n_dead_letters: int
    n_repeated_dead_letters: int
    faults: Sequence[str] = field(repr=False)


async def check(site: ChaosSite, load: Load, before: Sequence[Vitals]) -> Findings:
    """All invariants, once everything has come to rest."""
    site.trace.read()
    limbo = await _limbo(site)
    letters = await browse(site)
    wrong = {letter.key for letter in load.ledger.poison}
    of_jobs = [letter.key for letter in letters if letter.key not in wrong]
    statuses = await _statuses(site, load.ledger.jobs)
    jobs = [letter for letter in load.ledger.jobs if not letter.is_poison]
    failed = [letter for letter in jobs if statuses[letter.key].get("status") == "failed"]
    succeeded = [letter for letter in jobs if statuses[letter.key].get("status") == "succeeded"]
    faults = [
        *limbo,
        *site.trace.faults,
        *_without_end(site, load.ledger.jobs, statuses),
        *await _bad_results(site, succeeded),
        *await _stale_members(site, succeeded),
        *wrong_dead_letters(letters, failed, load.ledger.poison, statuses),
        *_bugs(site),
        *await _not_back(site, before),
    ]
    return Findings(
        n_jobs=len(jobs),
        n_succeeded=len(succeeded),
        n_failed=len(failed),
        n_poison=len(load.ledger.poison),
        n_dead_letters=len(letters),
        n_repeated_dead_letters=len(of_jobs) - len(set(of_jobs)),
        faults=faults,
    )


async def _statuses(site: ChaosSite, letters: Sequence[Letter]) -> dict[str, dict[str, str]]:
    async with site.redis.pipeline(transaction=False) as pipe:
        for letter in letters:
            pipe.hgetall(f"job:status:{letter.key}")
        found = await pipe.execute()
    return {
        letter.key: {name.decode(): value.decode() for name, value in fields.items()}
        for letter, fields in zip(letters, found, strict=True)
    }


def _without_end(site: ChaosSite, letters: Sequence[Letter], statuses: dict[str, dict[str, str]]) -> list[str]:
    """Jobs that have not exactly one end, or whose poller sees another one."""
    faults = []
    for letter in letters:
        history, status = site.trace.statuses.get(letter.key, []), statuses[letter.key].get("status")
        ends = [step for step in history if step in TERMINAL]
        if len(ends) != 1 or ends[0] != status:
            faults.append(f"{letter.key} shows {status} after {' '.join(history)}")
    return faults


async def _bad_results(site: ChaosSite, letters: Sequence[Letter]) -> list[str]:
    faults = []
    for letter in letters:
        raw = await site.redis.get(f"job:result:{letter.key}")
        if raw is None:
            faults.append(f"{letter.key} succeeded and has no result")
            continue
        result = orjson.loads(raw)
        wrong = faults_of(result, letter.has, site.songs)
        if result["status"] != "completed" or result["provisional"]:
            wrong.append("not a final result")
        faults += [f"{letter.key}: {each}" for each in wrong]
    return faults


async def _stale_members(site: ChaosSite, letters: Sequence[Letter]) -> list[str]:
    """Members who are not shown the result of their newest job; provisional ones stand until their time is over."""
    newest: dict[int, Letter] = {}
    for letter in sorted(letters, key=lambda each: each.requested_at):
        newest[letter.member_id] = letter
    faults = []
    for member_id, letter in newest.items():
        latest = await site.redis.get(f"latest:recommendation:{member_id}")
        if latest is None:
            faults.append(f"member {member_id} is shown nothing, though {letter.key} succeeded")
        elif not orjson.loads(latest)["provisional"] and latest != await site.redis.get(f"job:result:{letter.key}"):
            faults.append(f"member {member_id} is not shown the result of their newest job {letter.key}")
    return faults


async def _limbo(site: ChaosSite) -> list[str]:
    """What is ready or unacked where nothing should be, though it was given time to go."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        depths = await site.queue_depths()
        resting = {site.topology.main.dead_letter_queue}
        stuck = {name: depth for name, depth in depths.items() if any(depth[1:] if name in resting else depth)}
        if not stuck:
            return []
        if time.monotonic() > deadline:
            return [f"{name}: {ready} ready, {unacked} unacked" for name, (ready, unacked) in stuck.items()]
        await asyncio.sleep(_POLL_S)


def wrong_dead_letters(
    letters: Sequence[DeadLetterSeen],
    failed: Sequence[Letter],
    poison: Sequence[Letter],
    statuses: dict[str, dict[str, str]],
) -> list[str]:
    """Exactly the poison and the jobs that used up their attempts, each with its last error and status failed."""
    dead, due = {letter.key for letter in letters}, {letter.key for letter in (*failed, *poison)}
    faults = [f"{key} has status {_status(statuses, key)} and no dead letter" for key in sorted(due - dead)]
    faults += [f"{key} has status {_status(statuses, key)} and a dead letter" for key in sorted(dead - due)]
    wrong = {letter.key for letter in poison}
    for letter in letters:
        if letter.key in due:
            faults += [f"dead letter {letter.key}: {each}" for each in _wrong_notes(letter, letter.key in wrong)]
        if (code := statuses.get(letter.key, {}).get("error.code")) not in {None, letter.code}:
            faults.append(f"dead letter {letter.key}: its error is {letter.code}, and its poller reads {code}")
    return faults


def _status(statuses: dict[str, dict[str, str]], key: str) -> str | None:
    return statuses.get(key, {}).get("status")


def _wrong_notes(letter: DeadLetterSeen, is_poison: bool) -> list[str]:
    expected = "invalid" if is_poison else "attempts_used_up"
    faults = []
    if letter.reason != expected:
        faults.append(f"its reason is {letter.reason}, not {expected}: {letter.error}")
    if not letter.error or not letter.code:
        faults.append("it does not say its error")
    if not is_poison and letter.attempt != MAX_ATTEMPTS - 1:
        faults.append(f"its last attempt was number {letter.attempt}")
    return faults


def _bugs(site: ChaosSite) -> list[str]:
    """Lines that only a bug writes."""
    logs = [*site.logs, *(worker.log for worker in site.workers)]
    lines = [line for log in logs for line in log.splitlines()]
    bugs = Counter(_told(line) for line in lines if "unexpected_error_caught" in line or line.startswith("Traceback"))
    return [f"{count} times in the logs: {bug}" for bug, count in bugs.items()]


def _told(line: str) -> str:
    """The end of a traceback, which says what it was."""
    if not line.startswith("{"):
        return line
    entry = orjson.loads(line)
    return f"{entry.get('digest')}: {str(entry.get('exception'))[-1500:]}"


async def _not_back(site: ChaosSite, before: Sequence[Vitals]) -> list[str]:
    """Workers that hold on to more memory or sockets than when the round began, though they were given time."""
    most_sockets = max(each.n_sockets for each in before) + SOCKET_GROWTH
    most_mb = max(each.rss_mb for each in before) + RSS_GROWTH_MB
    deadline = time.monotonic() + 10
    while True:
        now = [vitals(worker.pid) for worker in site.workers]
        over = [each for each in now if each.n_sockets > most_sockets or each.rss_mb > most_mb]
        if not over or time.monotonic() > deadline:
            return [f"a worker holds {each}, and at the start they held {before}" for each in over]
        await asyncio.sleep(_POLL_S)

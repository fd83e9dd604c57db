"""The worst moment to die: the result is saved, and the broker does not know yet.

A proxy passes everything on but acks. A worker runs as many jobs as its prefetch allows and believes that it has acked
them; it is killed, the broker delivers every one again, and the next worker has to recognise them.
"""

import re
from dataclasses import dataclass
from random import Random

from tests.chaos.load import Letter, LetterWriter, Load
from tests.chaos.site import ChaosSite
from tests.support.waiting import until

_WITHIN_S = 120.0
_KNOWN = re.compile(r'^songs_ai_deliveries_settled_total\{[^}]*reason="succeeded_before"[^}]*\} (\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KilledBeforeAck:
    """What came of it: jobs published, deliveries whose ack was lost with their worker, jobs that were run a second
    time, and redeliveries that were recognised and only acked."""

    n_jobs: int
    n_killed_before_ack: int
    n_runs_again: int
    n_acked_as_known: int


async def kill_before_acks(site: ChaosSite, chance: Random, *, n_kills: int, n_jobs: int) -> KilledBeforeAck:
    """``n_kills`` times: publish ``n_jobs`` (the prefetch), kill the one worker when all are saved, start the next."""
    load, writer, n_killed, n_known = Load(site, chance, n_outstanding=n_jobs), LetterWriter(chance, site.songs), 0, 0
    for _ in range(n_kills):
        site.broker_wire.keeps_acks, site.broker_wire.n_acks_kept = True, 0
        letters = [_job(writer) for _ in range(n_jobs)]
        await load.publisher.publish(letters)
        await until(lambda: _all_over(load), within_s=_WITHIN_S)
        await until(lambda: _kept(site, n_jobs), within_s=_WITHIN_S)
        await site.workers[0].kill()
        n_killed += site.broker_wire.n_acks_kept
        site.broker_wire.keeps_acks = False
        await site.replace(0)
        await until(lambda: _is_empty(site), within_s=_WITHIN_S)
        n_known += int(sum(map(int, _KNOWN.findall(await site.workers[0].metrics()))))
    await load.publisher.close()
    site.trace.read()
    runs = [history.count("running") for history in site.trace.statuses.values()]
    return KilledBeforeAck(len(runs), n_killed, sum(runs) - len(runs), n_known)


def _job(writer: LetterWriter) -> Letter:
    while (letter := writer.write()).is_poison:
        pass
    return letter


async def _all_over(load: Load) -> bool:
    load.read()
    return not load.unfinished


async def _kept(site: ChaosSite, n: int) -> bool:
    return site.broker_wire.n_acks_kept >= n


async def _is_empty(site: ChaosSite) -> bool:
    return not any(any(depth) for depth in (await site.queue_depths()).values())

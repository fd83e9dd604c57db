"""The dead-letter queue as the HTTP API reads it."""

import asyncio
from collections.abc import Callable, Collection, Mapping

from core.dead_letter_desk import DeadLetterNote, DeadLetterPage
from core.ports.clock import Clock
from core.ports.results import ResultCache
from workers.broker import Broker
from workers.dead_letter_text import n_tries, printable
from workers.dead_letters import DeadLetters, Fate, Letter, Wanted
from workers.settlement import n_replays


class BrokerDeadLetterDesk:
    """The ``DeadLetterDesk`` of one broker. One look at a time: a second would find the queue empty meanwhile.

    ``mask`` takes secrets out of what errors say.
    """

    def __init__(self, broker: Broker, results: ResultCache, clock: Clock, *, mask: Callable[[str], str]) -> None:
        self._letters = DeadLetters(broker, results, clock)
        self._mask = mask
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def oldest(self, n: int) -> DeadLetterPage:
        """See ``DeadLetterDesk``."""
        found: list[Letter] = []
        async with self._one_at_a_time:
            n_waiting = await self._letters.n_waiting()
            async with self._letters.those(Wanted()) as letters:
                async for letter in letters:
                    found.append(letter)
                    if len(found) == n:
                        break
        return DeadLetterPage([self._note(letter) for letter in found], max(n_waiting, len(found)))

    async def replay(self, letter_ids: Collection[str]) -> Mapping[str, str]:
        """See ``DeadLetterDesk``."""
        fates: dict[str, str] = {}

        def tell(letter: Letter, fate: Fate) -> None:
            fates[letter.letter_id] = fate.value

        if letter_ids:  # no ids would mean all of them
            async with self._one_at_a_time:
                await self._letters.replay(Wanted(ids=frozenset(letter_ids)), tell)
        return fates

    def _note(self, letter: Letter) -> DeadLetterNote:
        return DeadLetterNote(
            letter_id=letter.letter_id,
            member_id=None if letter.job is None else letter.job.member_id,
            reason=letter.reason,
            code=letter.code,
            error=self._mask(printable(letter.error or letter.problem)),
            n_tries=n_tries(letter),
            n_replays=n_replays(letter.delivery.headers),
            age_s=letter.age_s(self._clock.now()),
        )

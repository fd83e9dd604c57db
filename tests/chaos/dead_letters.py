"""What lies in the dead-letter queue, looked at without taking it away."""

from dataclasses import dataclass

import aio_pika
import orjson

from tests.chaos.load import LETTER_HEADER
from tests.chaos.site import ChaosSite


@dataclass(frozen=True, slots=True)
class DeadLetterSeen:
    """One message of the dead-letter queue, by the key of the letter that it was; None: a header it should have."""

    key: str
    body: bytes
    reason: str | None
    error: str | None
    code: str | None

    @property
    def attempt(self) -> int:
        """The number of the try that was its last."""
        return int(orjson.loads(self.body)["attempt"])


async def browse(site: ChaosSite) -> list[DeadLetterSeen]:
    """All of it; the messages go back when the channel ends."""
    async with await aio_pika.connect(site.servers.broker.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(site.topology.main.dead_letter_queue)
        seen = []
        while (message := await queue.get(no_ack=False, fail=False)) is not None:
            seen.append(_seen(message))
        return seen


def _seen(message: aio_pika.abc.AbstractIncomingMessage) -> DeadLetterSeen:
    headers = {name: None if value is None else str(value) for name, value in message.headers.items()}
    return DeadLetterSeen(
        key=headers.get(LETTER_HEADER) or "",
        body=message.body,
        reason=headers.get("x-dead-letter-reason"),
        error=headers.get("x-last-error"),
        code=headers.get("x-last-error-code"),
    )

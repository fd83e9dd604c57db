"""The command line in a process that stops dead at a chosen moment, says so, and waits to be killed.

    python -m tests.support.stopped_command METHOD NUMBER MOMENT COMMAND...

It stops at the NUMBERth call of the broker's METHOD: ``before`` it, or ``after`` it has returned.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from main import app
from workers.amqp_broker import AmqpBroker

REACHED = "reached"


def stop_at(method: str, number: int, moment: str) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(AmqpBroker, method)
    n_calls = 0

    async def stopping(broker: AmqpBroker, *arguments: object, **options: object) -> Any:
        nonlocal n_calls
        n_calls += 1
        is_last = n_calls == number
        if is_last and moment == "before":
            await _for_ever()
        outcome = await original(broker, *arguments, **options)
        if is_last:
            await _for_ever()
        return outcome

    setattr(AmqpBroker, method, stopping)


async def _for_ever() -> None:
    sys.stdout.write(f"{REACHED}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    stop_at(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    app(sys.argv[4:])

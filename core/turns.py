"""Turns of the tasks that share an event loop."""

import asyncio


class Turns:
    """Lets one task at a time go on, who asked first first, and the event loop round between two of them.

    Tasks that become ready in one round of the loop run back to back, and everything else waits for the last of them:
    heartbeats, timers, answers from the network. Whoever asks for a turn before each piece of work of a few
    milliseconds lets all others wait for one such piece at the most.
    """

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def turn(self) -> None:
        """Returns when it is the caller's turn, which lasts until it waits for anything."""
        async with self._one:
            await asyncio.sleep(0)

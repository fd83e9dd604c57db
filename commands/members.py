"""What is kept of one member, and its end."""

import typer
from rich.table import Table

from commands.running import run, start, unseen_servers
from commands.screen import FAILED, complain, console, for_machines, say, tell_json
from config.settings import MEMORY_URL, Settings
from core.feedback import Remains
from services.forgetting import REDIS_PLACES
from workers.member_messages import MemberMessages, all_queues
from workers.runtime.parts import Parts, open_parts


def forget(*, member: int, look: bool, as_json: bool) -> None:
    """Remove what is kept of a member, and list what is left by looking: nothing, or the command fails."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            has_broker = "broker" not in unseen_servers(settings)
            if has_broker:
                await start(parts.broker)
            removed = None if look else await _forget(parts, member, has_broker=has_broker)
            if removed:
                _tell("removed", removed)
            left = await _remains(parts, member, has_broker=has_broker)
            _tell("kept" if look else "left", left)
            unseen = await _unseen(parts, has_broker=has_broker)
            at = await parts.forgetting.forgotten_at(member)
        if not look:
            say(
                f"that member {member} was forgotten at {at:%Y-%m-%dT%H:%M:%SZ} is kept: what is under way from before "
                "is not written, and no model is fitted on what other tables say of before"
            )
        if as_json:
            tell_json(
                {
                    "member": member,
                    "forgotten_at": at,
                    "removed": removed and dict(removed.places),
                    "left": dict(left.places),
                    "unseen": unseen,
                }
            )
        if not look and (left.n or unseen):
            raise typer.Exit(FAILED)

    with for_machines(as_json):
        run(step)


async def _forget(parts: Parts, member: int, *, has_broker: bool) -> Remains:
    removed = _seen(parts, await parts.forgetting.forget(member, parts.clock.now()))
    if has_broker:
        removed |= await MemberMessages(parts.broker).remove(member, all_queues(parts.broker.topology))
    return Remains(places=removed)


async def _remains(parts: Parts, member: int, *, has_broker: bool) -> Remains:
    left = _seen(parts, await parts.forgetting.remains(member))
    if has_broker:
        left |= await MemberMessages(parts.broker).count(member, all_queues(parts.broker.topology))
    return Remains(places=left)


def _seen(parts: Parts, found: Remains) -> dict[str, int]:
    hidden = REDIS_PLACES if "redis" in unseen_servers(parts.settings) else ()
    return {place: n for place, n in found.places.items() if place not in hidden}


async def _unseen(parts: Parts, *, has_broker: bool) -> list[str]:
    """What could not be looked through, which is said: servers, and queues."""
    servers = unseen_servers(parts.settings)
    for server in servers:
        complain(f"{server.upper()}_URL is {MEMORY_URL}, where what other processes keep is not seen: name theirs")
    queues = await MemberMessages(parts.broker).too_long(all_queues(parts.broker.topology)) if has_broker else []
    for queue in queues:
        complain(f"{queue} holds too many messages to be looked through: look again once it is shorter")
    return [*servers, *queues]


def _tell(what: str, found: Remains) -> None:
    table = Table("where", what)
    for place, n in found.places.items():
        table.add_row(place, str(n))
    table.add_row("in all", str(found.n))
    console.print(table)

"""The commands that give an empty site a catalogue, and its first recommendation; a backend's site is left alone."""

import asyncio

from commands.catalogue import embed_items, n_items
from commands.demo import made_up_likes, make_up_songs
from commands.running import need_a_broker, run, start
from commands.screen import console, say, stop
from config.settings import Settings
from services.import_cursors import SqlImportCursors
from services.ingest_store import SqlIngestStore
from services.listener_store import SqlListenerStore
from training.demo import Stage, play
from training.generate import SOURCE as GENERATED
from workers.runtime.parts import Parts, open_parts

_HALF = "the catalogue is half made up: `python main.py demo-catalogue` goes on where it broke off"
_LEFT_ALONE = "the catalogue was not made up here: nothing to do"
_NO_CATALOGUE = "there is no catalogue yet: `python main.py demo-catalogue` makes one up, `ingest FILE` takes your own"


def demo_catalogue(*, songs: int, members: int, seed: int) -> None:
    """Make up songs and listeners where the database has no table of songs, and embed them; else do nothing."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            begun = SqlImportCursors(parts.database)
            if not parts.profile.track_files:
                console.print(f"for profile {parts.profile.name!r} nothing can be made up: nothing to do")
            elif await _n_made_up(parts) == 0 and await begun.cursor(GENERATED) is None:
                console.print(_LEFT_ALONE)
            else:
                # Tables of ours that are empty yet are told from a backend's by this.
                await begun.keep(GENERATED, "begun")
                await _fill(parts, songs, members, seed)
                await begun.keep(GENERATED, None)

    run(step)


def first_recommendation(*, timeout_s: float) -> None:
    """Publish a job of a made-up listener as the backend does, and show what comes back; else do nothing."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            n_made_up = await _n_made_up(parts) if parts.profile.track_files else 0
            if n_made_up is None:
                stop(_NO_CATALOGUE)
            if parts.profile.track_files and await SqlImportCursors(parts.database).cursor(GENERATED) is not None:
                stop(_HALF)
            if n_made_up == 0:
                say(f"{_LEFT_ALONE}; `publish --member ID --wait` asks for a member of yours")
                return
            need_a_broker(settings, "no worker can take the job (`demo` runs both in one)")
            await start(parts.broker)
            try:
                async with asyncio.timeout(timeout_s):
                    await _recommend(parts)
            except TimeoutError:
                stop(f"no result within {timeout_s:g} s; is a worker running?")

    run(step)


async def _n_made_up(parts: Parts) -> int | None:
    return await SqlIngestStore(parts.database, parts.profile).n_items(GENERATED)


async def _fill(parts: Parts, n_songs: int, n_members: int, seed: int) -> None:
    """Listeners come after the songs and vectors last: what was interrupted goes on where it broke off."""
    if await _n_made_up(parts) is None or not await parts.members.active_member_ids(1):
        await make_up_songs(parts, seed, n_songs)
        console.print(f"{len(await made_up_likes(parts, n_members, seed))} listeners like some of them")
    else:
        say(f"there is a catalogue of {await n_items(parts):,} already: nothing is made up")
    await embed_items(parts)


async def _recommend(parts: Parts) -> None:
    [member_id] = await parts.members.active_member_ids(1)
    listener = await SqlListenerStore(parts.database, parts.profile).listener(member_id)
    stage = Stage(
        results=parts.results,
        publisher=parts.publisher,
        catalogue=parts.catalogue,
        profile=parts.profile,
        clock=parts.clock,
        console=console,
    )
    likes = {member_id: tuple(interest.item_id for interest in listener.interests)}
    await play(stage, likes, locale="en", n_shown=1)

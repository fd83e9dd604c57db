"""The command that runs the whole worker in one process, on made-up listeners."""

import asyncio
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from commands.catalogue import embed_items, ingest_file, n_items, steps_shown
from commands.running import run
from commands.screen import console, progress_bar, under_way
from config.settings import Settings
from core.errors import ConfigurationError
from models.catalogue import Item
from models.source import SourceListener
from services.ingest_store import SqlIngestStore
from services.listener_store import SqlListenerStore
from training.demo import Stage, play
from training.generate import SOURCE as GENERATED
from training.generate import listeners_one_by_one, songs_one_by_one
from training.ingest import save_items
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.parts import Parts, embedded, open_parts

N_MADE_UP = 2000
# Over a hundred thousand songs a second's worth: Ctrl-C waits for no more.
_LISTENERS_AT_ONCE = 50
METRICS_SHOWN = (
    "songs_ai_recommendations_total",
    "songs_ai_deliveries_settled_total",
    "songs_ai_answer_cache",
    "songs_ai_cache_hit_rate",
    "songs_ai_llm_calls",
    "songs_ai_llm_tokens",
    "songs_ai_degraded",
)
WHERE_NEXT = """
[bold]Where to go next[/bold]
  make demo TRACKS=songs.csv                 the same on real data
  OPENAI_API_KEY=... make demo               the LLM re-ranks and explains, one call a listener
  .venv/bin/python main.py --help            what else there is
  README.md, "Run it for real"               RabbitMQ, MySQL and Redis; docker compose up
"""


def demo(*, files: list[Path] | None, members: int, shown: int, locale: str, seed: int) -> None:
    """Run the whole worker in this process: no server, no key. With OPENAI_API_KEY set, the LLM explains."""

    async def step(settings: Settings) -> None:
        with TemporaryDirectory(prefix="songs-ai-demo-") as directory:
            async with open_parts(embedded(settings, Path(directory))) as parts:
                await fill_catalogue(parts, files or (), seed)
                if not files:
                    console.print("`make demo TRACKS=file.csv` takes real songs")
                likes = await _likes_of_file(parts, members) or await made_up_likes(parts, members, seed)
                with under_way("index"):
                    await prepare(parts)
                async with running_consumers(parts):
                    await play(
                        Stage(
                            results=parts.results,
                            publisher=parts.publisher,
                            catalogue=parts.catalogue,
                            profile=parts.profile,
                            clock=parts.clock,
                            console=console,
                        ),
                        likes,
                        locale=locale,
                        n_shown=shown,
                    )
                _show_metrics(parts)
        console.print(WHERE_NEXT, soft_wrap=True)

    run(step, log_level="WARNING")


async def fill_catalogue(parts: Parts, files: Sequence[Path], seed: int, n_made_up: int = N_MADE_UP) -> None:
    """Migrate, fill and embed an empty catalogue: with what is in the files, or with made-up songs."""
    from services import migrations  # noqa: PLC0415 - Alembic is slow to import

    if not files and not parts.profile.track_files:
        raise ConfigurationError(f"for profile {parts.profile.name!r} nothing can be made up: give --file FILE")
    with steps_shown() as shown:
        await asyncio.to_thread(migrations.upgrade, parts.database.sync_url, on_step=shown)
    for file in files:
        await ingest_file(parts, file)
    if not files:
        await make_up_songs(parts, seed, n_made_up)
    await embed_items(parts)


async def make_up_songs(parts: Parts, seed: int, n_songs: int) -> None:
    """Put made-up songs into a catalogue that is ours, where they are not there yet, and say how many."""
    store = SqlIngestStore(parts.database, parts.profile)
    songs = songs_one_by_one(seed, n_songs, max(n_songs * 12 // 100, 1))
    await store.prepare()
    with progress_bar() as progress:
        task = progress.add_task("songs", total=n_songs)
        report = await save_items(GENERATED, songs, store, n_songs, lambda n, _: progress.update(task, completed=n))
    console.print(f"made up {report.n_inserted} songs (seed {seed})")


async def _likes_of_file(parts: Parts, n_members: int) -> dict[int, tuple[int, ...]]:
    """What members like, where a file said so."""
    store = SqlListenerStore(parts.database, parts.profile)
    listeners = [await store.listener(each) for each in await parts.members.active_member_ids(n_members)]
    return {each.member_id: tuple(interest.item_id for interest in each.interests) for each in listeners}


async def made_up_likes(parts: Parts, n_members: int, seed: int) -> dict[int, tuple[int, ...]]:
    """Put made-up members and what they like into a catalogue that is ours; their items by member."""
    listeners = await _made_up_listeners(parts, n_members, seed)
    with under_way("saving what they like"):
        await SqlIngestStore(parts.database, parts.profile).save_listeners(listeners)
    return {each.member_id: tuple(dict.fromkeys([*each.liked_ids, *each.playlist_ids])) for each in listeners}


async def _made_up_listeners(parts: Parts, n_members: int, seed: int) -> list[SourceListener]:
    with progress_bar() as progress:
        reading = progress.add_task("songs read", total=None if progress.disable else await n_items(parts))
        items: list[Item] = []
        async for batch in parts.catalogue.stream():
            items += batch
            progress.update(reading, completed=len(items))
        making, listeners = progress.add_task("listeners", total=n_members), list[SourceListener]()
        each_listener = listeners_one_by_one(items, range(1, n_members + 1), seed)
        while some := await asyncio.to_thread(list, islice(each_listener, _LISTENERS_AT_ONCE)):
            listeners += some
            progress.update(making, completed=len(listeners))
    return listeners


def _show_metrics(parts: Parts) -> None:
    exposition = parts.metrics.expose("")[0].decode()
    told = [line for line in exposition.splitlines() if line.startswith(METRICS_SHOWN) and not line.endswith(" 0.0")]
    console.print("what the metrics counted (a worker serves them at /metrics):", style="bold")
    console.print("\n".join(f"  {line}" for line in told), markup=False, highlight=False, soft_wrap=True)

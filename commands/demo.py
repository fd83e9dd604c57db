"""The command that runs the whole worker in one process, on made-up listeners."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from commands.catalogue import embed_items, ingest_file
from commands.running import console, run
from config.settings import Settings
from services.ingest_store import SqlIngestStore
from training.demo import Stage, play
from training.generate import SOURCE as GENERATED
from training.generate import generate_listeners, generate_songs
from training.ingest import save_items
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.parts import Parts, embedded, open_parts

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
  make demo TRACKS=songs.csv                 the same on real songs
  OPENAI_API_KEY=... make demo               the LLM re-ranks and explains, one call a listener
  .venv/bin/python main.py --help            what else there is
  README.md, "Run it for real"               RabbitMQ, MySQL and Redis; docker compose up
"""


def demo(
    tracks: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A CSV file of real tracks.")] = None,
    members: Annotated[int, typer.Option(min=1, max=10_000, help="How many listeners ask.")] = 40,
    shown: Annotated[int, typer.Option(min=0, help="How many of them are shown.")] = 3,
    locale: Annotated[str, typer.Option(help="ko, ja or en.")] = "en",
    seed: Annotated[int, typer.Option(help="The same seed makes the same songs and listeners.")] = 7,
) -> None:
    """Run the whole worker in this process: no server, no key. With OPENAI_API_KEY set, the LLM explains."""

    async def step(settings: Settings) -> None:
        with TemporaryDirectory(prefix="songs-ai-demo-") as directory:
            async with open_parts(embedded(settings, Path(directory))) as parts:
                await fill_catalogue(parts, tracks, seed)
                if tracks is None:
                    console.print("`make demo TRACKS=file.csv` takes real songs")
                items = [item async for batch in parts.catalogue.stream() for item in batch]
                listeners = generate_listeners(items, members, seed)
                await SqlIngestStore(parts.database, parts.profile).save_listeners(listeners)
                await prepare(parts)
                async with running_consumers(parts):
                    await play(
                        Stage(
                            results=parts.results,
                            publisher=parts.publisher,
                            catalogue=parts.catalogue,
                            clock=parts.clock,
                            console=console,
                        ),
                        {
                            each.member_id: tuple(dict.fromkeys([*each.liked_ids, *each.playlist_ids]))
                            for each in listeners
                        },
                        locale=locale,
                        n_shown=shown,
                    )
                _show_metrics(parts)
        console.print(WHERE_NEXT, soft_wrap=True)

    run(step, log_level="WARNING")


async def fill_catalogue(parts: Parts, tracks: Path | None, seed: int, n_made_up: int = 2000) -> None:
    """Migrate, fill and embed an empty catalogue: with the file's songs, or with made-up ones."""
    from services import migrations  # noqa: PLC0415 - Alembic is slow to import

    await asyncio.to_thread(migrations.upgrade, parts.database.sync_url)
    if tracks:
        await ingest_file(parts, tracks)
    else:
        store = SqlIngestStore(parts.database, parts.profile)
        songs = generate_songs(seed, n_made_up, max(n_made_up * 12 // 100, 1))
        await store.prepare()
        report = await save_items(GENERATED, songs, store, len(songs))
        console.print(f"made up {report.n_inserted} songs (seed {seed})")
    await embed_items(parts)


def _show_metrics(parts: Parts) -> None:
    exposition = parts.metrics.expose("")[0].decode()
    told = [line for line in exposition.splitlines() if line.startswith(METRICS_SHOWN) and not line.endswith(" 0.0")]
    console.print("what the metrics counted (a worker serves them at /metrics):", style="bold")
    console.print("\n".join(f"  {line}" for line in told), markup=False, highlight=False, soft_wrap=True)

"""What wishes change: the first 50 of a list with and without one, by measured features and by genres.

    python -m benchmarks.wishes --tracks songs.csv [--n-listeners 12] [--likes 6]

Listeners like songs drawn by a seed, each of one genre. No server and no LLM are needed.
"""

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import orjson
from rich.console import Console
from rich.table import Table

from config.settings import Settings
from models.catalogue import Item
from models.job import Job, JobContext
from services import migrations
from services.fitted_embedder import FittedEmbedder
from services.former_embeddings import SqlFormerEmbeddings
from services.ingest_store import SqlIngestStore
from training.embed import Fitting, embed_catalogue, fit_and_embed
from training.ingest import ingest, layouts_of
from workers.runtime.parts import Parts, embedded, open_parts

TOP_K = 50
SHOWN = ("valence", "energy", "tempo", "acousticness", "danceability")
WISHES: Sequence[JobContext | None] = (
    None,
    JobContext(query="something bright for the way home"),
    JobContext(query="calm songs, nothing sad"),
    JobContext(query="energetic rock"),
    JobContext(query="r&b for a party"),
    JobContext(mood="신나는", activity="운동"),
    JobContext(query="퇴근길에 듣기 좋은 잔잔한 노래"),
    JobContext(query="발라드 말고 신나는 힙합"),
    JobContext(query="슬픈 노래", local_time=time(23, 30)),
    JobContext(query="帰り道に聴きたい明るい曲"),
    JobContext(query="眠る前の静かな曲"),
    JobContext(query="踊れるラテン"),
    JobContext(local_time=time(7, 30)),
    JobContext(query="qwertz uiopü"),
)

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the items of all lists: the mean of each feature, and shares.

    ``own``: of items of the genre that their listener likes; ``told``: of those whose reason tells of the wish.
    """

    features: Mapping[str, float]
    genres: Mapping[str, float]
    own: float
    told: float


@dataclass(frozen=True, slots=True)
class Row:
    """An item of a list."""

    item: Item
    is_own: bool
    is_told: bool


def shares(rows: Sequence[Row]) -> Shares:
    """What ``rows`` have, of which there must be some."""
    means = {
        name: fmean(values)
        if (values := [row.item.features[name] for row in rows if name in row.item.features])
        else 0.0
        for name in SHOWN
    }
    genres = sorted({genre for row in rows for genre in row.item.genres})
    of_genre = {genre: fmean(genre in row.item.genres for row in rows) for genre in genres}
    return Shares(means, of_genre, fmean(row.is_own for row in rows), fmean(row.is_told for row in rows))


def listeners(items: Sequence[Item], n: int, n_likes: int) -> list[tuple[int, ...]]:
    """The likes of ``n`` listeners, each of one genre, genres in turn; the same for the same items."""
    draw = random.Random(0)
    genres = sorted({item.genres[0] for item in items if item.genres})
    by_genre = {genre: [item.item_id for item in items if item.genres[:1] == (genre,)] for genre in genres}
    pools = [by_genre[genres[place % len(genres)]] for place in range(n)]
    return [tuple(draw.sample(pool, min(n_likes, len(pool)))) for pool in pools]


async def first_items(
    parts: Parts, likes: Sequence[tuple[int, ...]], wish: JobContext | None, items: Mapping[int, Item]
) -> list[Row]:
    """What all listeners' lists begin with."""

    async def ignore(progress: int) -> None:
        del progress

    rows: list[Row] = []
    for member_id, liked in enumerate(likes, 1):
        job = Job(job_id="b", member_id=-member_id, favorite_item_ids=liked, top_k=TOP_K, locale="en", context=wish)
        result = orjson.loads((await parts.pipeline.recommend(job, ignore)).result)
        own = set(items[liked[0]].genres)
        for row in result["candidates"]:
            item, told = items[row["song_id"]], [each for each in row["matched_criteria"] if each.startswith("wish:")]
            rows.append(Row(item, not own.isdisjoint(item.genres), bool(told)))
    return rows


def named(wish: JobContext | None) -> str:
    """``wish`` in its own words."""
    if wish is None:
        return "(none)"
    clock = wish.local_time.isoformat("minutes") if wish.local_time else None
    return " / ".join(part for part in (wish.query, wish.mood, wish.activity, clock) if part)


async def measure(
    tracks: Path, wishes: Sequence[JobContext | None], n_listeners: int, n_likes: int
) -> AsyncIterator[tuple[JobContext | None, list[Row]]]:
    """Ingest ``tracks`` into a database of its own; each wish and what the lists begin with."""
    with TemporaryDirectory() as directory:
        async with open_parts(embedded(Settings(openai_api_key="", openai_base_url=""), Path(directory))) as parts:
            await asyncio.to_thread(migrations.upgrade, parts.database.sync_url)
            await ingest(tracks, SqlIngestStore(parts.database, parts.profile), layouts_of(parts.profile))
            await _embed(parts)
            await parts.index.load()
            items = {item.item_id: item async for batch in parts.catalogue.stream() for item in batch}
            likes = listeners(list(items.values()), n_listeners, n_likes)
            for wish in wishes:
                yield wish, await first_items(parts, likes, wish, items)


async def _embed(parts: Parts) -> None:
    if isinstance(parts.embedder, FittedEmbedder):
        weights = parts.profile.item.feature_weights
        former = SqlFormerEmbeddings(parts.database)
        fitting = Fitting(embedder=parts.embedder, models=parts.models, former=former, feature_weights=weights)
        await fit_and_embed(parts.catalogue, fitting, parts.embeddings)
    else:
        await embed_catalogue(parts.catalogue, parts.embedder, parts.embeddings)


async def show(tracks: Path, n_listeners: int, n_likes: int) -> None:
    """Print a row for each wish."""
    found = [(wish, shares(rows)) async for wish, rows in measure(tracks, WISHES, n_listeners, n_likes)]
    genres = sorted({genre for _, each in found for genre in each.genres})
    table = Table("wish", *SHOWN, *genres, "own", "told", title=f"the first {TOP_K} of {n_listeners} listeners")
    for wish, each in found:
        features = [f"{each.features[name]:.{0 if name == 'tempo' else 2}f}" for name in SHOWN]
        percents = [*(each.genres.get(genre, 0) for genre in genres), each.own, each.told]
        table.add_row(named(wish), *features, *(f"{share:.0%}" for share in percents))
    console.print(table)


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--n-listeners", type=int, default=12)
    parser.add_argument("--likes", type=int, default=6, help="likes of each")
    arguments = parser.parse_args()
    asyncio.run(show(arguments.tracks, arguments.n_listeners, arguments.likes))


if __name__ == "__main__":
    main()

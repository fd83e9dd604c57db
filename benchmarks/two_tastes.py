"""One listener of two very different tastes: the interests found, and whose candidates come of each.

    python -m benchmarks.two_tastes --tracks songs.csv [--genres rock,latin] [--n-likes 6]

The likes are the songs of two genres that lie farthest from the other genre's mean. No server and no LLM are needed.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from config.settings import Settings
from core.ports import Floats, ItemIndex
from core.profile import ProfileConfig, TasteProfile, build_profile
from core.ranking import RankingConfig, rank
from core.retrieval import retrieve
from models.catalogue import ItemFacts
from services import migrations
from services.ingest_store import SqlIngestStore
from training.embed import embed_catalogue
from training.ingest import ingest
from workers.runtime import Parts, embedded, open_parts

N_RETRIEVED, N_RANKED = 300, 100

console = Console(highlight=False)


async def apart(parts: Parts, index: ItemIndex, genres: Sequence[str], n_likes: int) -> list[int]:
    """For each of two genres, the ``n_likes`` songs whose vectors are least like the other genre's mean."""
    items = [item async for batch in parts.catalogue.stream() for item in batch]
    ids = [[item.item_id for item in items if genre in item.genres] for genre in genres]
    found = [await index.vectors(of_genre) for of_genre in ids]
    liked: list[int] = []
    for (own_ids, own), (_, other) in zip(found, reversed(found), strict=True):
        liked += own_ids[np.argsort(own @ other.mean(axis=0), kind="stable")[:n_likes]].tolist()
    return liked


def nearest(profile: TasteProfile, vectors: Floats) -> list[int]:
    """The interest that each of ``vectors`` (n, dim) is nearest to."""
    return [int(place) for place in np.argmax(vectors @ profile.centroids.T, axis=1)]


async def show_interests(profile: TasteProfile, index: ItemIndex, parts: Parts) -> None:
    """Every interest with its weight and the likes that are nearest to it."""
    items = await parts.catalogue.items(profile.liked_ids.tolist())
    homes = nearest(profile, profile.liked_vectors)
    for interest, weight in enumerate(profile.weights.tolist()):
        console.print(f"interest {interest + 1}, weight {weight:.2f}", style="bold")
        for item_id, home in zip(profile.liked_ids.tolist(), homes, strict=True):
            if home == interest:
                item = items[item_id]
                console.print(f"  {item.title('en')} | {item.creator} | {', '.join(item.genres)}", markup=False)


def show_shares(what: str, facts: Sequence[ItemFacts], homes: Sequence[int], n_interests: int) -> None:
    """How many candidates are nearest to each interest, and of which genres these are."""
    table = Table("interest", "candidates", "genres", title=f"{what}: {len(facts)}")
    for interest in range(n_interests):
        own = [each for each, home in zip(facts, homes, strict=True) if home == interest]
        genres = Counter(each.genres[0] for each in own if each.genres)
        table.add_row(str(interest + 1), str(len(own)), ", ".join(f"{name} {n}" for name, n in genres.most_common(4)))
    console.print(table)


async def show(tracks: Path, genres: Sequence[str], n_likes: int) -> None:
    """Ingest ``tracks`` into a database of its own, build the profile, retrieve and rank."""
    with TemporaryDirectory() as directory:
        settings = embedded(Settings(), Path(directory))
        async with open_parts(settings) as parts:
            await asyncio.to_thread(migrations.upgrade, parts.database.sync_url)
            await ingest(tracks, SqlIngestStore(parts.database))
            await embed_catalogue(parts.catalogue, parts.embedder, parts.embeddings)
            await parts.index.load()
            index = parts.index.current()
            ids, vectors = await index.vectors(await apart(parts, index, genres, n_likes))
            weights = np.ones(len(ids), np.float32)
            profile = build_profile(ids, vectors, weights, ProfileConfig(n_interests=settings.n_interests))
            await show_interests(profile, index, parts)
            retrieved = await retrieve(profile, index, N_RETRIEVED, set(ids.tolist()))
            ranked = rank(retrieved, N_RANKED, RankingConfig())
            places = {facts.item_id: place for place, facts in enumerate(retrieved.facts)}
            homes = nearest(profile, retrieved.vectors)
            show_shares("retrieved", retrieved.facts, homes, len(profile.weights))
            kept = [places[each.facts.item_id] for each in ranked]
            show_shares("ranked", [each.facts for each in ranked], [homes[p] for p in kept], len(profile.weights))


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--genres", default="rock,latin", help="two genres of the file")
    parser.add_argument("--n-likes", type=int, default=6, help="likes of each")
    arguments = parser.parse_args()
    asyncio.run(show(arguments.tracks, arguments.genres.split(","), arguments.n_likes))


if __name__ == "__main__":
    main()

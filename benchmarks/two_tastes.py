"""One listener of two very different tastes: the interests found, and whose candidates come of each.

    python -m benchmarks.two_tastes --tracks songs.csv [--genres rock,latin] [--n-likes 6]

The likes are the songs of two genres that lie farthest from the other genre's mean. No server and no LLM are needed.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from config.settings import Settings
from core.ports.arrays import Floats
from core.ports.index import ItemIndex
from core.profile import ProfileConfig, TasteProfile, build_profile
from core.ranking import RankingConfig, rank
from core.retrieval import retrieve
from models.catalogue import Item, ItemFacts
from services import migrations
from services.ingest_store import SqlIngestStore
from training.embed import embed_catalogue
from training.ingest import ingest, layouts_of
from workers.runtime.parts import Parts, embedded, open_parts

N_RETRIEVED, N_RANKED, N_SHOWN = 300, 100, 20

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


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage kept: ``facts`` of the candidates, and ``homes``, the interest that each is nearest to."""

    name: str
    facts: Sequence[ItemFacts]
    homes: Sequence[int]

    def n_of(self, interest: int) -> int:
        """How many are nearest to ``interest``."""
        return self.homes.count(interest)


@dataclass(frozen=True, slots=True)
class TwoTastes:
    """The listener, with the items of the likes, and what retrieval and ranking kept for them."""

    profile: TasteProfile
    liked: Sequence[Item]
    stages: Sequence[Stage]

    def taste_of(self, interest: int) -> str:
        """The genre that most of the likes of ``interest`` have."""
        homes = nearest(self.profile, self.profile.liked_vectors)
        own = [item.genres[0] for item, home in zip(self.liked, homes, strict=True) if home == interest]
        return Counter(own).most_common(1)[0][0] if own else ""

    def share(self, stage: Stage, genre: str) -> float:
        """Of what ``stage`` kept, the part that is nearest to the interests in ``genre``."""
        n = sum(stage.n_of(each) for each in range(len(self.profile.weights)) if self.taste_of(each) == genre)
        return n / len(stage.facts)


async def measure(tracks: Path, genres: Sequence[str], n_likes: int, ranking: RankingConfig) -> TwoTastes:
    """Ingest ``tracks`` into a database of its own, build the profile, retrieve and rank."""
    with TemporaryDirectory() as directory:
        settings = embedded(Settings(), Path(directory))
        async with open_parts(settings) as parts:
            await asyncio.to_thread(migrations.upgrade, parts.database.sync_url)
            await ingest(tracks, SqlIngestStore(parts.database, parts.profile), layouts_of(parts.profile))
            await embed_catalogue(parts.catalogue, parts.embedder, parts.embeddings)
            await parts.index.load()
            index = parts.index.current()
            ids, vectors = await index.vectors(await apart(parts, index, genres, n_likes))
            weights = np.ones(len(ids), np.float32)
            profile = build_profile(ids, vectors, weights, ProfileConfig(n_interests=settings.n_interests))
            retrieved = await retrieve(profile, index, N_RETRIEVED, set(ids.tolist()))
            places = {facts.item_id: place for place, facts in enumerate(retrieved.facts)}
            homes = nearest(profile, retrieved.vectors)
            ranked = [each.facts for each in rank(retrieved, N_RANKED, ranking)]
            items = await parts.catalogue.items(profile.liked_ids.tolist())
    stages = (
        Stage("retrieved", retrieved.facts, homes),
        Stage("ranked", ranked, [homes[places[facts.item_id]] for facts in ranked]),
        Stage("shown", ranked[:N_SHOWN], [homes[places[facts.item_id]] for facts in ranked[:N_SHOWN]]),
    )
    return TwoTastes(profile, [items[item_id] for item_id in profile.liked_ids.tolist()], stages)


def show(found: TwoTastes, genres: Sequence[str]) -> None:
    """Every interest with its weight and likes, and what each stage kept for it."""
    homes = nearest(found.profile, found.profile.liked_vectors)
    for interest, weight in enumerate(found.profile.weights.tolist()):
        console.print(f"interest {interest + 1}, weight {weight:.2f}", style="bold")
        for item, home in zip(found.liked, homes, strict=True):
            if home == interest:
                console.print(f"  {item.title('en')} | {item.creator} | {', '.join(item.genres)}", markup=False)
    for stage in found.stages:
        table = Table("interest", "candidates", "genres", title=f"{stage.name}: {len(stage.facts)}")
        for interest in range(len(found.profile.weights)):
            own = [each for each, home in zip(stage.facts, stage.homes, strict=True) if home == interest]
            of = Counter(each.genres[0] for each in own if each.genres)
            table.add_row(str(interest + 1), str(len(own)), ", ".join(f"{name} {n}" for name, n in of.most_common(4)))
        console.print(table)
        console.print(", ".join(f"{genre} likes: {found.share(stage, genre):.0%}" for genre in genres))


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--genres", default="rock,latin", help="two genres of the file")
    parser.add_argument("--n-likes", type=int, default=6, help="likes of each")
    parser.add_argument("--calibration", type=float, default=RankingConfig().calibration, help="0: by score alone")
    arguments = parser.parse_args()
    genres, ranking = arguments.genres.split(","), RankingConfig(calibration=arguments.calibration)
    show(asyncio.run(measure(arguments.tracks, genres, arguments.n_likes, ranking)), genres)


if __name__ == "__main__":
    main()

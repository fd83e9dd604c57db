"""The first stage: a listener's taste, what is near it, ranked, and looked up in the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from core.item_versions import VersionFinder, first_creator
from core.ports.arrays import Floats
from core.ports.catalogue import Catalogue
from core.ports.clock import Clock
from core.ports.observing import Observer
from core.profile import TasteProfile, build_profile
from core.question import PipelineConfig, Question
from core.ranking import Ranked, rank
from core.repetition import repetition_factors
from core.retrieval import Retrieved, retrieve
from core.taste import aversion_factors, taste_of
from core.turns import Turns
from core.wish_stage import WishStage
from models.catalogue import Item
from models.recommendation import Candidate


class Found(NamedTuple):
    """``candidates`` best first, the newest known likes, and what could not be done for the wish, if anything."""

    candidates: list[Candidate]
    liked: list[Item]
    flaw: str | None


class FirstStage:
    """Finds what a model is to choose from."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        observer: Observer,
        clock: Clock,
        turns: Turns,
        versions: VersionFinder,
        config: PipelineConfig,
        wishes: WishStage | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._observer = observer
        self._clock = clock
        self._turns = turns
        self._versions = versions
        self._config = config
        self._wishes = wishes

    async def find(self, question: Question, n: int) -> Found:
        """At least ``n`` candidates, as far as there are so many. Raises ``DependencyUnavailable``."""
        await self._turns.turn()
        taste = taste_of(question.listener, self._clock.now().timestamp(), self._config.profile)
        likes = taste.liked
        profile = await self._taste(likes, question)
        with self._observer.stage("retrieve"):
            search = await self._wishes.search(question.wish) if self._wishes and question.wish else None
            retrieved = await retrieve(
                profile,
                question.index,
                self._config.overask * n,
                question.excluded_ids,
                question.collaborative,
                likes,
                search.sought if search else None,
            )
            if self._wishes and search:
                retrieved = await self._wishes.measured(search, retrieved)
        retrieved = replace(retrieved, damping=await self._damping(retrieved, taste.averse, question))
        await self._turns.turn()
        with self._observer.stage("rank"):
            # More than are asked for: some are versions of one work, or were deactivated since the index was loaded.
            ranked = rank(retrieved, n + self._config.n_spare, self._config.ranking)
        candidates, liked = await self._hydrate(ranked, question)
        return Found(candidates, liked, search.flaw if search else None)

    async def _taste(self, weights: Mapping[int, float], question: Question) -> TasteProfile:
        ids, vectors = await question.index.vectors(list(weights))
        self._observer.unknown_items(len(weights) - len(ids))
        counts = np.array([weights[item_id] for item_id in ids.tolist()], dtype=np.float32)
        return build_profile(ids, vectors, counts, self._config.profile)

    async def _damping(self, retrieved: Retrieved, averse: Mapping[int, float], question: Question) -> Floats | None:
        """What is left of scores: for being like what is disliked, and for having been shown day after day."""
        if not averse and not question.shown:
            return None
        ids, vectors = await question.index.vectors(list(averse))
        weights = np.array([averse[item_id] for item_id in ids.tolist()], dtype=np.float32)
        found = np.array([facts.item_id for facts in retrieved.facts], dtype=np.int64)
        kept = aversion_factors(retrieved.vectors, vectors, weights, self._config.aversion)
        return kept * repetition_factors(found, question.shown, self._config.repetition)

    async def _hydrate(self, ranked: Sequence[Ranked], question: Question) -> tuple[list[Candidate], list[Item]]:
        """The candidates that are still eligible, and the newest likes that are known, in one round trip.

        Of versions of one work only the best goes through, and none where the member has or refused another.
        """
        liked_ids = [interest.item_id for interest in question.listener.interests[: self._config.n_likes_shown]]
        near_ids = [item_id for each in ranked for item_id in each.near_ids]
        with self._observer.stage("hydrate"):
            owned_ids = await self._owned_ids(ranked, question)
            found_ids = {each.facts.item_id for each in ranked}
            items = await self._catalogue.items(found_ids | {*liked_ids, *near_ids, *owned_ids})
        await self._turns.turn()
        candidates = [each.candidate(items) for each in ranked if each.facts.item_id in items]
        owned = [item for item_id, item in items.items() if item_id not in found_ids]
        return self._versions.without_versions(candidates, owned), [
            items[item_id] for item_id in dict.fromkeys(liked_ids) if item_id in items
        ]

    async def _owned_ids(self, ranked: Sequence[Ranked], question: Question) -> list[int]:
        """What the member has or refused by creators of candidates: all that a candidate may be a version of."""
        interests = [interest.item_id for interest in question.listener.interests]
        owned = list(dict.fromkeys([*interests, *sorted(question.excluded_ids)]))[: self._config.max_owned]
        known, _ = await question.index.vectors(owned)
        creators = {first_creator(each.facts.creator) for each in ranked}
        facts = await question.index.facts(known.tolist())
        return [each.item_id for each in facts if first_creator(each.creator) in creators]

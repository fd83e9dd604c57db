"""Candidate generation: from a taste profile to a few hundred items, measured against what the listener likes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from core.ports import Floats, FusionWeights, Hits, Ids, ItemIndex
from core.profile import TasteProfile
from models.catalogue import ItemFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What was found, in no promised order: n items, measured against the n_liked likes that the index knows.

    ``facts``: one entry an item; ``vectors`` float32 (n, dim); ``similarity`` float32 (n,): the cosine to the nearest
    interest; ``liked``: one entry a like; ``affinity`` float32 (n, n_liked): the cosine to each like; ``is_popular``:
    found by popularity alone. With a collaborative model: ``collaborative`` float32 (n,), its scores, NaN for items
    that it does not know; ``fusion``, how much each source weighs; ``sources``, what found each item.
    """

    facts: Sequence[ItemFacts]
    vectors: Floats
    similarity: Floats
    liked: Sequence[ItemFacts]
    affinity: Floats
    is_popular: bool
    collaborative: Floats | None = None
    fusion: FusionWeights | None = None
    sources: Sequence[tuple[str, ...]] = ()


async def retrieve(profile: TasteProfile, index: ItemIndex, n: int, excluded: Collection[int]) -> Retrieved:
    """Up to ``n`` items none of which is ``excluded``; a cold profile gets popular items of many genres."""
    if profile.is_cold:
        ids = await _popular(index, n, excluded)
    else:
        ids = await _near_interests(profile, index, n, excluded)
        missing = n - len(ids)
        if missing > 0:
            ids = np.concatenate([ids, await _popular(index, missing, {*excluded, *ids.tolist()})])
    return await _measure(profile, index, ids)


async def _near_interests(profile: TasteProfile, index: ItemIndex, n: int, excluded: Collection[int]) -> Ids:
    """Each interest gives its best: at least its share of ``n``, and so much more that overlaps do not matter."""
    found = await index.search(profile.centroids, n, excluded=excluded)
    quotas = [max(1, round(n * float(share))) for share in profile.weights]
    chosen = dict.fromkeys(
        item for hits, quota in zip(found, quotas, strict=True) for item in hits.ids[:quota].tolist()
    )
    for item in _merged(found):
        if len(chosen) >= n:
            break
        chosen.setdefault(item)
    return np.fromiter(list(chosen)[:n], dtype=np.int64)


def _merged(found: list[Hits]) -> list[int]:
    ids = np.concatenate([hits.ids for hits in found])
    scores = np.concatenate([hits.scores for hits in found])
    return [int(item) for item in ids[np.lexsort((ids, -scores))]]


async def _popular(index: ItemIndex, n: int, excluded: Collection[int]) -> Ids:
    """Popular items, no more than a quarter of them of one genre, as long as there are enough."""
    diverse = await index.popular(n, excluded=excluded, max_per_genre=max(1, n // 4))
    missing = n - len(diverse)
    if missing <= 0:
        return diverse
    return np.concatenate([diverse, await index.popular(missing, excluded={*excluded, *diverse.tolist()})])


async def _measure(profile: TasteProfile, index: ItemIndex, ids: Ids) -> Retrieved:
    known, vectors = await index.vectors(ids.tolist())
    similarity = (
        np.zeros(len(known), dtype=np.float32) if profile.is_cold else np.max(vectors @ profile.centroids.T, axis=1)
    )
    return Retrieved(
        facts=await index.facts(known.tolist()),
        vectors=vectors,
        similarity=similarity,
        liked=await index.facts(profile.liked_ids.tolist()),
        affinity=vectors @ profile.liked_vectors.T,
        is_popular=profile.is_cold,
    )

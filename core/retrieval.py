"""Candidate generation: from a taste profile to a few hundred items, measured against what the listener likes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.ports.arrays import Floats, Ids
from core.ports.collaborative import CollaborativeSource, FusionWeights
from core.ports.index import Hits, ItemIndex
from core.profile import TasteProfile
from core.wish import Sought, WishFit
from models.catalogue import ItemFacts
from models.recommendation import CandidateSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What was found, in no promised order: n items, measured against the n_liked likes that the index knows.

    ``facts``: one entry an item; ``vectors`` float32 (n, dim); ``similarity`` float32 (n,): the cosine to the nearest
    interest; ``liked``: one entry a like; ``affinity`` float32 (n, n_liked): the cosine to each like; ``is_popular``:
    found by popularity alone. With a collaborative model: ``collaborative`` float32 (n,), its scores, NaN for items
    that it does not know; ``fusion``, how much each source weighs; ``sources``, what found each item. Where
    the profile is not cold: ``interests`` int64 (n,), the one that each item is nearest to; ``interest_weights``
    float32 (k,), what each is of the whole taste, adding up to 1. ``damping`` float32 (n,), above 0 and up to 1: what
    is left of the score of each item for other reasons than the taste.
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
    interests: Ids | None = None
    interest_weights: Floats | None = None
    wish: WishFit | None = None
    damping: Floats | None = None


@dataclass(frozen=True, slots=True)
class _FoldedIn:
    """A listener as the model of all listeners sees one: float32 (dim,)."""

    source: CollaborativeSource
    vector: Floats


async def retrieve(
    profile: TasteProfile,
    index: ItemIndex,
    n: int,
    excluded: Collection[int],
    collaborative: CollaborativeSource | None = None,
    likes: Mapping[int, float] | None = None,
    wish: Sought | None = None,
) -> Retrieved:
    """Up to ``n`` items near the interests, and up to ``n`` that the likes of others suggest; none is ``excluded``.

    For a ``wish`` up to ``n`` more that are near it, or between it and an interest, as far as there are, of its tags.

    A cold profile gets popular items of many genres. ``likes``: the weight of each like, of those too that the index
    does not know. A model that knows none of them changes nothing.
    """
    wished = {CandidateSource.WISH: await _near_wish(wish, profile, index, n, excluded)} if wish else {}
    if profile.is_cold:
        popular = {CandidateSource.POPULARITY: await _popular(index, n, excluded)}
        return await _measure(profile, index, popular | wished, None)
    found = {CandidateSource.CONTENT: await _near_interests(profile, index, n, excluded)}
    folded = _fold_in(collaborative, likes or {})
    if folded:
        hits = await folded.source.search(folded.vector, n, excluded=excluded)
        found[CandidateSource.COLLABORATIVE] = hits.ids
    missing = n - len(found[CandidateSource.CONTENT])
    if missing > 0:
        others = {*excluded, *np.concatenate(list(found.values())).tolist()}
        found[CandidateSource.POPULARITY] = await _popular(index, missing, others)
    return await _measure(profile, index, found | wished, folded)


async def _near_wish(wish: Sought, profile: TasteProfile, index: ItemIndex, n: int, excluded: Collection[int]) -> Ids:
    """Half of the places are the wish's own, the others those of the interests that it steers.

    The strictest of the wish's filters comes first; what it leaves open goes to the next one, and last to none.
    """
    queries, shares = wish.steered(profile.centroids, profile.weights)
    chosen: list[Ids] = []
    for predicate in [*wish.predicates, *([None] if wish.vector is not None else [])]:
        missing = n - sum(map(len, chosen))
        if missing <= 0 or not len(queries):
            break
        others = {*excluded, *(item for ids in chosen for item in ids.tolist())}
        hits = await index.search(queries, missing, excluded=others, predicate=predicate)
        chosen.append(_shared_out(hits, shares, missing))
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)


def _fold_in(source: CollaborativeSource | None, likes: Mapping[int, float]) -> _FoldedIn | None:
    listener = source.listener(likes) if source else None
    return _FoldedIn(source, listener) if source and listener is not None else None


async def _near_interests(profile: TasteProfile, index: ItemIndex, n: int, excluded: Collection[int]) -> Ids:
    """Each interest gives its best: at least its share of ``n``, and so much more that overlaps do not matter."""
    return _shared_out(await index.search(profile.centroids, n, excluded=excluded), profile.weights, n)


def _shared_out(found: list[Hits], shares: Floats, n: int) -> Ids:
    quotas = [max(1, round(n * float(share))) for share in shares]
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


async def _measure(
    profile: TasteProfile, index: ItemIndex, found: Mapping[CandidateSource, Ids], folded: _FoldedIn | None
) -> Retrieved:
    """What the index does not know, such as items that the model was fitted on and that are gone, is left out."""
    ids = list(dict.fromkeys(np.concatenate(list(found.values())).tolist()))
    known, vectors = await index.vectors(ids)
    cosines = vectors @ profile.centroids.T if not profile.is_cold else np.zeros((len(known), 1), dtype=np.float32)
    facts = await index.facts(known.tolist())
    liked = await index.facts(profile.liked_ids.tolist())
    return Retrieved(
        facts=facts,
        vectors=vectors,
        similarity=np.max(cosines, axis=1),
        liked=liked,
        affinity=vectors @ profile.liked_vectors.T,
        is_popular=profile.is_cold,
        collaborative=folded.source.scores(folded.vector, known) if folded else None,
        fusion=folded.source.weights if folded else None,
        sources=_sources(facts, liked, found),
        interests=None if profile.is_cold else np.argmax(cosines, axis=1),
        interest_weights=None if profile.is_cold else profile.weights,
    )


def _sources(
    facts: Sequence[ItemFacts], liked: Sequence[ItemFacts], found: Mapping[CandidateSource, Ids]
) -> list[tuple[CandidateSource, ...]]:
    """What found each item; that it is by a creator who is liked counts as found by that too."""
    creators = {each.creator for each in liked} - {None}
    ids = {source: of_source.tolist() for source, of_source in found.items()}
    ids[CandidateSource.SAME_CREATOR] = [each.item_id for each in facts if each.creator in creators]
    sources: dict[int, tuple[CandidateSource, ...]] = dict.fromkeys((each.item_id for each in facts), ())
    for source in CandidateSource:
        for item_id in ids.get(source, ()):
            if item_id in sources:
                sources[item_id] += (source,)
    return list(sources.values())

"""The documents that the backend reads (CONTRACT.md 2), from a finished recommendation.

Which columns an item carries is the catalogue profile's to say; whatever we add beside the contract comes last.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import orjson

from config.catalogue_profile import CatalogueProfile
from core.explanation import CLOSE
from core.llm_share import Arm
from core.ports.results import ProvisionalDocuments, ResultDocuments
from models.catalogue import Item, Scalar
from models.recommendation import Candidate, Evidence, Group, RecommendationType, Reranked, TasteSummary

Json = Mapping[str, object]

DOCUMENT_VERSION = 6
"""Raised whenever the layout of the documents changes: answers of another layout are not used again."""

_UNTIL_FINAL = ", until the final ones are there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All that a result tells: the outcome of both stages and what it was made with.

    ``candidates`` stand in final order, and ``reasons`` has a sentence for each of them, by item id.
    """

    reranked: Reranked
    candidates: Sequence[Candidate]
    reasons: Mapping[int, str]
    liked_ids: Sequence[int]
    generated_on: date
    locale: str
    fingerprint: str
    versions: Mapping[str, str]
    arm: Arm = Arm.NONE


def encode_result(finished: Finished, profile: CatalogueProfile) -> ResultDocuments:
    """The three documents as JSON bytes."""
    result, cached_view = _documents(finished, profile, provisional=False)
    favorites = profile.result.favorites
    preferred = {name: result[name] for name in ("preference", "generated_date")}
    return ResultDocuments(
        result=orjson.dumps(result),
        cached_view=orjson.dumps(cached_view),
        preference=orjson.dumps({favorites: cached_view[favorites], **preferred}),
        degraded=finished.reranked.degraded is not None,
        shown_ids=tuple(pick.candidate.item.item_id for group in finished.reranked.groups for pick in group.picks),
    )


def encode_provisional(finished: Finished, profile: CatalogueProfile) -> ProvisionalDocuments:
    """What of it may be shown before the LLM has answered: as a result is, but for ``provisional`` and the message."""
    result, cached_view = _documents(finished, profile, provisional=True)
    return ProvisionalDocuments(result=orjson.dumps(result), cached_view=orjson.dumps(cached_view))


def _documents(finished: Finished, profile: CatalogueProfile, *, provisional: bool) -> tuple[Json, Json]:
    """The result and the cached view; ``status`` is ``completed`` in either case, for the backend knows no other."""
    reranked = finished.reranked
    shelves = _groups(reranked.groups, profile)
    rows = [_candidate(candidate, finished.reasons, profile, finished.locale) for candidate in finished.candidates]
    generated_date = finished.generated_on.isoformat()
    result = {
        "status": "completed",
        "message": f"{len(rows)} recommendations in {len(shelves)} groups{_UNTIL_FINAL if provisional else ''}",
        "generated_date": generated_date,
        "groups": shelves,
        "candidates": rows,
        "preference": _preference(reranked.taste, profile),
        "locale": finished.locale,
        "provisional": provisional,
        "degraded": reranked.degraded is not None,
        "degraded_reason": reranked.degraded,
        "model": reranked.model,
        "arm": finished.arm.value,
        "usage": {
            "llm_calls": reranked.usage.n_calls,
            "prompt_tokens": reranked.usage.prompt_tokens,
            "completion_tokens": reranked.usage.completion_tokens,
            "cached_tokens": reranked.usage.cached_tokens,
            "cost_usd": None if reranked.usage.cost_usd is None else round(reranked.usage.cost_usd, 6),
        },
        "versions": {**finished.versions, "document": str(DOCUMENT_VERSION)},
        "fingerprint": finished.fingerprint,
    }
    cached_view = {
        profile.result.favorites: list(finished.liked_ids),
        "groups": shelves,
        "candidates": rows,
        "generated_date": generated_date,
        "provisional": provisional,
        "fingerprint": finished.fingerprint,
        "locale": finished.locale,
    }
    return result, cached_view


def item_ids(documents: ResultDocuments, profile: CatalogueProfile) -> frozenset[int]:
    """The ids of all items that the result shows."""
    result = orjson.loads(documents.result)
    return frozenset(row[profile.id_field] for row in result["candidates"])


def match_score(candidate: Candidate) -> float:
    """The first-stage score as the backend shows it: 0 to 100, one decimal."""
    return round(100 * min(max(candidate.score, 0.0), 1.0), 1)


def matched_criteria(candidate: Candidate, locale: str, profile: CatalogueProfile) -> list[str]:
    """What the candidate has of the likes and of the wish, and what else speaks for it, as ``criterion:value``.

    ``near`` names a like that it is close to, by its title in ``locale``; ``source`` what found it (the values of
    ``CandidateSource``).
    """
    evidence = candidate.evidence
    creator = [f"{profile.result.creator}:{candidate.item.creator}"] if evidence.same_creator else []
    genres = [f"genre:{genre}" for genre in evidence.shared_genres]
    moods = [f"mood:{mood}" for mood in evidence.shared_moods]
    wish = [f"wish:{each.key.partition(':')[2]}" for each in evidence.wish]
    near = [f"near:{title}" for title in _near_titles(evidence, locale)]
    discovery = [f"discovery:{evidence.discovery.value}"] if evidence.discovery else []
    sources = [f"source:{source}" for source in evidence.sources]
    return [*creator, *genres, *moods, *wish, *near, *discovery, *sources] or [_kind(candidate, profile)]


def _near_titles(evidence: Evidence, locale: str) -> Iterator[str]:
    """Titles of the likes that it is close to, each once."""
    pairs = zip(evidence.near, evidence.near_similarity, strict=False)
    return iter(dict.fromkeys(liked.title(locale) for liked, similarity in pairs if similarity >= CLOSE))


def _groups(groups: Sequence[Group], profile: CatalogueProfile) -> list[Json]:
    shelves: list[Json] = []
    place = 0
    for group in groups:
        shown = []
        for pick in group.picks:
            place += 1
            candidate = pick.candidate
            added = {
                profile.id_field: candidate.item.item_id,
                "reason": pick.reason,
                "rank": place,
                "match_score": match_score(candidate),
            }
            shown.append({**_columns(candidate.item, profile.group_fields), **added})
        shelves.append({"label": group.label, "tagline": group.tagline, profile.result.items: shown})
    return shelves


def _candidate(candidate: Candidate, reasons: Mapping[int, str], profile: CatalogueProfile, locale: str) -> Json:
    return {
        profile.id_field: candidate.item.item_id,
        **_columns(candidate.item, profile.candidate_fields),
        "recommendation_type": _kind(candidate, profile),
        "matched_criteria": matched_criteria(candidate, locale, profile),
        "match_score": match_score(candidate),
        "reason": reasons[candidate.item.item_id],
    }


def _kind(candidate: Candidate, profile: CatalogueProfile) -> str:
    is_by_creator = candidate.kind is RecommendationType.ARTIST
    return profile.result.creator if is_by_creator else candidate.kind.value


def _columns(item: Item, fields: Sequence[str]) -> dict[str, Scalar]:
    return {field: item.columns.get(field) for field in fields}


def _preference(taste: TasteSummary, profile: CatalogueProfile) -> Json:
    return {
        "preferred_genres": list(taste.preferred_genres),
        "preferred_moods": list(taste.preferred_moods),
        "overall_taste": taste.overall_taste,
        profile.result.creators: list(taste.favorite_creators),
    }

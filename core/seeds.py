"""A recommendation from a few chosen items, made while the asker waits: the first stage alone, no language model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from core.errors import DependencyUnavailable
from core.explanation import Explainer
from core.first_stage import FirstStage
from core.job_codec import MAX_QUERY_CHARS
from core.llm_share import Arm
from core.plain_text import plain_line
from core.ports.catalogue import ChangingCatalogue
from core.ports.collaborative import CollaborativeProvider
from core.ports.index import IndexProvider, ItemIndex
from core.question import LOCALES, Question
from core.wish_stage import WishStage
from models.catalogue import Interest, Item, Listener
from models.job import Job, JobContext
from models.recommendation import Candidate, TasteSummary

N_NOBODIES = 1024
_NOBODY = 0
_REFUSAL = -1.0
# As many as a job ranks: of the few that are nearest, most may be of one creator, and no cap could hold.
_N_RANKED = 100


class UnknownSeeds(Exception):
    """Some of the chosen items cannot be recommended from: the catalogue, or its index, does not hold them."""

    def __init__(self, item_ids: Sequence[int]) -> None:
        super().__init__(f"no such items: {', '.join(map(str, item_ids))}")
        self.item_ids = tuple(item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedAnswer:
    """``candidates`` best first, with a sentence for each by item id; ``seeds`` in the order of their choosing."""

    candidates: Sequence[Candidate]
    reasons: Mapping[int, str]
    taste: TasteSummary
    seeds: Sequence[Item]
    locale: str


class SeedRecommender:
    """Ranks for a listener of whom nothing is known but the chosen items, which count alike."""

    def __init__(
        self,
        *,
        first_stage: FirstStage,
        index: IndexProvider,
        collaborative: CollaborativeProvider,
        catalogue: ChangingCatalogue,
        wishes: WishStage,
        explainer: Explainer,
        default_locale: str,
    ) -> None:
        self._first_stage = first_stage
        self._index = index
        self._collaborative = collaborative
        self._catalogue = catalogue
        self._wishes = wishes
        self._explainer = explainer
        self._default_locale = default_locale

    async def recommend(
        self,
        item_ids: Sequence[int],
        n: int,
        *,
        locale: str | None = None,
        wish: str | None = None,
        disliked_ids: Collection[int] = (),
    ) -> SeedAnswer:
        """The ``n`` best items beside ``item_ids``, and what the listener wishes for in their own words.

        What is like one of ``disliked_ids`` comes further down; those that nobody knows say nothing.
        Raises ``UnknownSeeds`` and ``DependencyUnavailable``.
        """
        question = await self._question(item_ids, n, locale, wish, frozenset(disliked_ids))
        found = await self._first_stage.find(question, max(n, _N_RANKED))
        best = found.candidates[:n]
        shown = [*item_ids, *(each.item.item_id for each in best)]
        items = {item.item_id: item for item in await self._catalogue.complete_items(shown)}
        candidates = [replace(each, item=items[each.item.item_id]) for each in best if each.item.item_id in items]
        reasons = {each.item.item_id: self._explainer.reason(each, question.locale) for each in candidates}
        return SeedAnswer(
            candidates=candidates,
            reasons=reasons,
            taste=self._explainer.taste(found.liked, question.locale),
            seeds=[items[item_id] for item_id in item_ids if item_id in items],
            locale=question.locale,
        )

    async def check(self, item_ids: Sequence[int]) -> None:
        """Return where all of them can be recommended from. Raises ``UnknownSeeds`` and ``DependencyUnavailable``."""
        await self._index_of(item_ids)

    async def _index_of(self, item_ids: Sequence[int]) -> ItemIndex:
        index = self._index.current()
        if not len(index):
            raise DependencyUnavailable("index", "holds no item, so nothing can be recommended")
        known = set((await index.vectors(list(item_ids)))[0].tolist())
        if unknown := [item_id for item_id in item_ids if item_id not in known]:
            raise UnknownSeeds(unknown)
        return index

    async def _question(
        self, item_ids: Sequence[int], n: int, locale: str | None, wish: str | None, disliked_ids: frozenset[int]
    ) -> Question:
        index = await self._index_of(item_ids)
        context = context_of(wish)
        return Question(
            job=Job(job_id="", member_id=_NOBODY, favorite_item_ids=tuple(item_ids), context=context),
            listener=Listener(
                member_id=_NOBODY,
                interests=tuple(Interest(item_id) for item_id in item_ids),
                seen_ids=frozenset(item_ids),
                disliked_ids=disliked_ids,
                reactions=tuple(Interest(item_id, _REFUSAL) for item_id in sorted(disliked_ids)),
            ),
            index=index,
            collaborative=self._collaborative.current(),
            locale=locale if locale in LOCALES else self._default_locale,
            top_k=n,
            fingerprint="",  # nothing of it is kept
            versions={},
            arm=Arm.NONE,
            wish=await self._wishes.read(context, index),
        )


def context_of(wish: str | None) -> JobContext | None:
    """What a job is told of a wish, or None where there is nothing in it."""
    line = plain_line(wish, MAX_QUERY_CHARS) if wish else ""
    return JobContext(query=line) if line else None


def nobody(item_ids: Sequence[int]) -> int:
    """The member in whose name a job of chosen items runs where they chose for nobody in particular.

    A number below 0, which no member of a backend has, and one of few: whatever is kept by member stays bounded.
    """
    digest = blake2b(",".join(map(str, sorted(item_ids))).encode(), digest_size=8).digest()
    return -1 - int.from_bytes(digest) % N_NOBODIES

"""A catalogue of some forty items in this process, and all that the routes need to look at it."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.browsing import ItemBrowser
from core.explanation import Explainer
from core.first_stage import FirstStage
from core.item_versions import VersionFinder
from core.ports.arrays import Floats
from core.ports.catalogue import ItemChanges, ItemsMark
from core.question import PipelineConfig
from core.seeds import SeedRecommender
from core.turns import Turns
from core.wish import WishConfig
from core.wish_stage import WishStage
from models.catalogue import Item
from services.item_search import FollowingItemSearch
from services.metrics import PrometheusMetrics
from tests.support.builders import ArrayIndex, make_item
from tests.support.hand_clock import HandClock

SONGS = load_profile("songs")
_TITLES = {1: {"ko": "비틀비틀 짝짜꿍"}, 2: {"ja": "夜に駆ける"}, 3: {"ja": "ドライフラワー"}, 4: {"en": "Halo"}}
_CREATORS = {1: "최예나", 2: "YOASOBI", 3: "優里", 4: "Beyoncé"}


def shown_items(n: int = 40) -> list[Item]:
    """Items 1 to ``n``, of which the first have names in several scripts; odd ones are pop, even ones jazz."""
    items = [
        make_item(
            number, creator=f"Artist {number % 7}", genres=("pop" if number % 2 else "jazz",), popularity=number / 100
        )
        for number in range(1, n + 1)
    ]
    return [
        replace(
            item,
            titles=_TITLES.get(item.item_id, item.titles),
            creator=_CREATORS.get(item.item_id, item.creator),
            features={"energy": item.item_id / 100},
            columns={**item.columns, **({"title_yomi": "よるにかける"} if item.item_id == 2 else {})},
        )
        for item in items
    ]


class ShownCatalogue:
    """A ``ChangingCatalogue`` of whatever a test puts into ``active``; ``stamps`` say which were changed."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.active = {item.item_id: item for item in items}
        self.stamps = dict.fromkeys(self.active, 0)
        self.n_streams = 0

    def put(self, item: Item) -> None:
        self.active[item.item_id] = item
        self.stamps[item.item_id] = self.stamps.get(item.item_id, 0) + 1

    async def items(self, item_ids: Collection[int]) -> dict[int, Item]:
        return {item_id: self.active[item_id] for item_id in item_ids if item_id in self.active}

    async def active_ids(self, item_ids: Collection[int]) -> set[int]:
        return set(item_ids) & set(self.active)

    async def complete_items(self, item_ids: Collection[int]) -> Sequence[Item]:
        return [self.active[item_id] for item_id in sorted(set(item_ids)) if item_id in self.active]

    async def stream(self, batch_size: int = 1000) -> AsyncIterator[Sequence[Item]]:
        self.n_streams += 1
        items = list(self.active.values())
        for start in range(0, len(items), batch_size):
            yield items[start : start + batch_size]

    async def mark(self) -> ItemsMark:
        ids = sorted(self.active)
        return ItemsMark(None, np.array(ids, dtype=np.int64), np.array([self.stamps[i] for i in ids], dtype=np.int64))

    async def changes(self, mark: ItemsMark) -> ItemChanges:
        before = dict(zip(mark.active_ids.tolist(), mark.dates.tolist(), strict=True))
        changed = [item_id for item_id in sorted(self.active) if before.get(item_id) != self.stamps[item_id]]
        gone = sorted(set(before) - set(self.active))
        return ItemChanges(np.array(changed, dtype=np.int64), np.array(gone, dtype=np.int64), await self.mark())

    async def features(self, item_ids: Collection[int]) -> dict[int, Mapping[str, float]]:
        return {item_id: self.active[item_id].features for item_id in item_ids if item_id in self.active}


class _Fixed:
    """An ``IndexProvider``, and a ``CollaborativeProvider`` that has no model."""

    def __init__(self, index: ArrayIndex) -> None:
        self.index = index

    def current(self) -> ArrayIndex:
        return self.index


class _NoModel:
    def current(self) -> None:
        return None


class _ZeroEmbedder:
    async def embed_wish(self, text: str, item: Item) -> Floats:
        return np.zeros(3, dtype=np.float32)


@dataclass
class Showroom:
    """What the routes are given; a test may change ``catalogue`` and ``index.index``."""

    catalogue: ShownCatalogue
    search: FollowingItemSearch
    index: _Fixed
    browser: ItemBrowser
    seeds: SeedRecommender


def showroom(clock: HandClock, metrics: PrometheusMetrics, n_items: int = 40) -> Showroom:
    """All of it over ``shown_items``."""
    catalogue = ShownCatalogue(shown_items(n_items))
    vectors = {number: [1.0, number / 20 - 1, (number % 7) / 7] for number in catalogue.active}
    index = _Fixed(ArrayIndex(vectors, {number: number / 100 for number in vectors}, dict(catalogue.active)))
    search = FollowingItemSearch(catalogue, refresh_s=60, spellings=SONGS.item.spellings)
    versions, config = VersionFinder(SONGS.versions), PipelineConfig(version="test")
    wishes = WishStage(SONGS.wishes, _ZeroEmbedder(), catalogue, WishConfig())
    first_stage = FirstStage(
        catalogue=catalogue,
        observer=metrics,
        clock=clock,
        turns=Turns(),
        versions=versions,
        config=config,
        wishes=wishes,
    )
    seeds = SeedRecommender(
        first_stage=first_stage,
        index=index,
        collaborative=_NoModel(),
        catalogue=catalogue,
        wishes=wishes,
        explainer=Explainer(SONGS, load_prompt_texts()),
        default_locale="ko",
    )
    browser = ItemBrowser(catalogue=catalogue, search=search, index=index, versions=versions)
    return Showroom(catalogue, search, index, browser, seeds)

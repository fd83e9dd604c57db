"""The swap of one index for the next."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from core.embedding import HashingEmbedder
from core.errors import DependencyUnavailable
from core.ports.arrays import Floats, Ids
from core.ports.catalogue import ItemsMark
from core.ports.index import IndexChanges, IndexMark, IndexRows
from services.index_watch import refresh_for_ever
from services.refreshing_index import RefreshingIndex
from tests.support.hand_clock import HandClock
from tests.support.index_rows import make_rows
from tests.support.waiting import until

EMBEDDER = HashingEmbedder(64)
NAME = EMBEDDER.name
NO_IDS = np.zeros(0, np.int64)


@dataclass
class ScriptedStore:
    """An ``EmbeddingStore`` of one item, or none; ``version_now`` says what it holds, and it fails while ``down``."""

    version_now: str = "v1"
    n_items: int = 1
    down: bool = False
    n_versions: int = 0
    n_loads: int = 0

    async def version(self, embedder_name: str) -> str:
        self.n_versions += 1
        self._answer(embedder_name)
        return self.version_now

    async def load(self, embedder_name: str) -> IndexRows:
        self.n_loads += 1
        self._answer(embedder_name)
        return make_rows([[1, 0, 0, 0]] * self.n_items, version=self.version_now)

    def _answer(self, embedder_name: str) -> None:
        assert embedder_name == NAME
        if self.down:
            raise DependencyUnavailable("mysql", "gone away")

    async def changes(self, embedder_name: str, mark: IndexMark, max_items: int) -> IndexChanges | None:
        return None

    async def pack(self, embedder_name: str) -> int:
        raise NotImplementedError

    async def content_hashes(self, embedder_name: str, item_ids: Collection[int] | None = None) -> dict[int, bytes]:
        raise NotImplementedError

    async def save(self, embedder_name: str, ids: Ids, vectors: Floats, content_hashes: Sequence[bytes]) -> None:
        raise NotImplementedError

    async def delete(self, embedder_name: str, item_ids: Collection[int]) -> None:
        raise NotImplementedError


@dataclass
class NotedLoads:
    """An ``IndexObserver`` that remembers."""

    versions: list[str] = field(default_factory=list)

    def index_loaded(self, *, version: str, embedder_name: str, n_items: int, recall: float) -> None:
        assert (embedder_name, recall) == (NAME, 1.0)
        assert n_items <= 1
        self.versions.append(version)


@dataclass
class Refreshing:
    """An index and what it stands on."""

    store: ScriptedStore = field(default_factory=ScriptedStore)
    clock: HandClock = field(default_factory=HandClock)
    observer: NotedLoads = field(default_factory=NotedLoads)

    def index(self, refresh_s: float = 0.001) -> RefreshingIndex:
        return RefreshingIndex(self.store, EMBEDDER, refresh_s=refresh_s, clock=self.clock, observer=self.observer)


def test_before_the_first_load_the_index_is_unavailable() -> None:
    index = Refreshing().index()
    with pytest.raises(DependencyUnavailable, match="not loaded"):
        index.current()
    assert index.age_s is None


async def test_a_loaded_index_is_in_force_and_told_of() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    assert (index.current().version, index.current().embedder_name, len(index.current())) == ("v1", NAME, 1)
    assert parts.observer.versions == ["v1"]


async def test_an_unchanged_store_is_not_loaded_again() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    held = index.current()
    await index.refresh()
    assert (parts.store.n_loads, parts.store.n_versions) == (1, 1)
    assert index.current() is held


async def test_a_changed_store_swaps_the_index_and_leaves_the_old_one_whole() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    held = index.current()
    parts.store.version_now = "v2"
    await index.refresh()
    assert index.current().version == "v2"
    assert held.version == "v1"
    assert parts.observer.versions == ["v1", "v2"]


async def test_the_age_counts_from_the_last_time_that_the_store_was_asked() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    parts.clock.move(40)
    assert index.age_s == 40
    await index.refresh()
    assert index.age_s == 0


async def test_a_load_that_fails_changes_nothing() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    held = index.current()
    parts.store.version_now, parts.store.down = "v2", True
    parts.clock.move(5)
    with pytest.raises(DependencyUnavailable):
        await index.refresh()
    assert index.current() is held
    assert index.age_s == 5


async def test_a_store_that_was_away_is_followed_again_when_it_is_back() -> None:
    parts = Refreshing()
    index = parts.index()
    await index.load()
    running = asyncio.create_task(index.run())
    parts.store.version_now, parts.store.down = "v2", True
    asked = parts.store.n_versions

    async def asked_twice() -> bool:
        return parts.store.n_versions >= asked + 2

    async def swapped() -> bool:
        return index.current().version == "v2"

    await until(asked_twice)
    assert index.current().version == "v1"
    parts.store.down = False
    await until(swapped)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(("takes_s", "least_s", "most_s"), [(0.1, 0.2, 0.3), (0.25, 0.29, 0.45)])
async def test_the_time_that_a_refresh_takes_is_not_waited_for_again(
    takes_s: float, least_s: float, most_s: float
) -> None:
    """Every 0.2 s, from beginning to beginning; after one that takes longer than that, there is a pause too."""
    loop, began_s = asyncio.get_running_loop(), list[float]()

    async def refresh() -> None:
        began_s.append(loop.time())
        await asyncio.sleep(takes_s)

    async def began_often() -> bool:
        return len(began_s) >= 5

    running = asyncio.create_task(refresh_for_ever(refresh, 0.2, Mock()))
    await until(began_often)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # A busy machine makes single rounds longer, but none shorter.
    assert 0.95 * least_s <= min(after - before for before, after in pairwise(began_s)) < most_s


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_first_refresh_waits_unless_it_is_wanted_at_once(at_once: bool) -> None:
    loop, began_s = asyncio.get_running_loop(), list[float]()

    async def refresh() -> None:
        began_s.append(loop.time())

    async def began_twice() -> bool:
        return len(began_s) >= 2

    start_s = loop.time()
    running = asyncio.create_task(refresh_for_ever(refresh, 0.3, Mock(), at_once=at_once))
    await until(began_twice)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (began_s[0] - start_s < 0.25) is at_once
    assert began_s[1] - began_s[0] >= 0.28


async def test_an_index_without_items_is_refreshed_at_once() -> None:
    parts = Refreshing(store=ScriptedStore(n_items=0))
    index = parts.index(refresh_s=3600)
    await index.load()
    assert not len(index.current())
    parts.store.n_items, parts.store.version_now = 1, "v2"
    running = asyncio.create_task(index.run())

    async def filled() -> bool:
        return len(index.current()) == 1

    await until(filled)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_refreshing_begins_even_where_the_first_load_failed() -> None:
    parts = Refreshing(store=ScriptedStore(down=True))
    index = parts.index()
    with pytest.raises(DependencyUnavailable):
        await index.load()
    parts.store.down = False
    await index.refresh()
    assert index.current().version == "v1"


async def test_what_is_new_is_embedded_before_a_changed_store_is_loaded() -> None:
    parts = Refreshing()
    noted: list[str] = []

    async def embed() -> None:
        noted.append(parts.store.version_now)
        parts.store.version_now = "v3"

    index = RefreshingIndex(
        parts.store, EMBEDDER, refresh_s=1, clock=parts.clock, observer=parts.observer, before_load=embed
    )
    await index.load()
    await index.refresh()
    await index.refresh()
    assert (noted, index.current().version) == (["v1"], "v3")
    parts.store.version_now = "v2"
    await index.refresh()
    assert (noted, index.current().version) == (["v1", "v2"], "v3")


async def test_one_process_loads_and_the_others_map_its_snapshot(tmp_path: Path) -> None:
    first, second = Refreshing(), Refreshing()
    for parts in (first, second):
        index = RefreshingIndex(
            parts.store, EMBEDDER, refresh_s=1, clock=parts.clock, observer=parts.observer, snapshot_directory=tmp_path
        )
        await index.load()
        assert (index.current().version, (await index.current().facts([1]))[0].creator) == ("v1", "creator 0")
    assert (first.store.n_loads, second.store.n_loads) == (1, 0)


async def test_without_room_for_a_file_the_index_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    parts = Refreshing()
    below = tmp_path / "file" / "below"
    index = RefreshingIndex(
        parts.store, EMBEDDER, refresh_s=1, clock=parts.clock, observer=parts.observer, snapshot_directory=below
    )
    await index.load()
    assert index.current().version == "v1"


@dataclass
class ChangingStore(ScriptedStore):
    """An ``EmbeddingStore`` of ``items`` (ids and creators) that tells what has changed since the load at a version."""

    items: dict[int, str] = field(default_factory=dict)
    history: list[dict[int, str]] = field(default_factory=list)
    n_packs: int = 0
    loading: asyncio.Event = field(default_factory=asyncio.Event)
    may_load: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_load.set()
        self.change(self.items)

    def change(self, items: dict[int, str]) -> None:
        self.items = items
        self.history.append(items)
        self.version_now = f"v{len(self.history)}"

    async def load(self, embedder_name: str) -> IndexRows:
        self.n_loads += 1
        self._answer(embedder_name)
        rows = self._rows(self.items)
        self.loading.set()
        await self.may_load.wait()
        return rows

    async def changes(self, embedder_name: str, mark: IndexMark, max_items: int) -> IndexChanges | None:
        before = self.history[mark.change_no]
        changed = {item_id: self.items[item_id] for item_id in self.items if self.items[item_id] != before.get(item_id)}
        gone = sorted(before.keys() - self.items.keys())
        if len(changed) + len(gone) > max_items:
            return None
        return IndexChanges(self._rows(changed), np.array(gone, np.int64))

    async def pack(self, embedder_name: str) -> int:
        self.n_packs += 1
        return 0

    def _rows(self, items: dict[int, str]) -> IndexRows:
        ids = sorted(items)
        mark = IndexMark(origin=1, change_no=len(self.history) - 1, items=ItemsMark(None, NO_IDS, NO_IDS))
        rows = make_rows([[1, 0, 0, 0]] * len(ids) or [[]], ids=ids, version=self.version_now)
        empty = replace(rows, vectors=np.zeros((0, 0), np.float32), genres=[], moods=[], languages=[])
        return replace(rows if ids else empty, creators=[items[item_id] for item_id in ids], mark=mark)


@dataclass
class Changing:
    """An index over a catalogue that changes."""

    store: ChangingStore
    embedder: HashingEmbedder = EMBEDDER
    clock: HandClock = field(default_factory=HandClock)

    def index(self, directory: Path | None = None) -> RefreshingIndex:
        return RefreshingIndex(
            self.store, self.embedder, refresh_s=1, clock=self.clock, observer=Mock(), snapshot_directory=directory
        )


async def creators(index: RefreshingIndex) -> dict[int, str | None]:
    held, _ = await index.current().vectors(range(1, 5_000))
    assert len(held) == len(index.current())
    return {each.item_id: each.creator for each in await index.current().facts(held.tolist())}


@pytest.mark.parametrize("shares_files", [False, True])
async def test_changes_are_followed_without_loading_again(tmp_path: Path, shares_files: bool) -> None:
    store = ChangingStore(items={1: "a", 2: "b", 3: "c"})
    index = Changing(store).index(tmp_path if shares_files else None)
    await index.load()
    for items in ({1: "a", 2: "b", 3: "c", 4: "d"}, {2: "x", 3: "c", 4: "d"}, {2: "x", 4: "y", 1: "z"}, {}, {7: "g"}):
        store.change(items)
        await index.refresh()
        assert (await creators(index), index.current().version) == (items, store.version_now)
    assert store.n_loads == 1


async def test_a_job_keeps_the_index_that_it_began_with() -> None:
    store = ChangingStore(items={1: "a", 2: "b"})
    index = Changing(store).index()
    await index.load()
    store.change({1: "a", 3: "c"})
    await index.refresh()
    held = index.current()
    store.change({1: "a"})
    await index.refresh()
    assert (await held.vectors([1, 2, 3]))[0].tolist() == [1, 3]


async def test_with_many_changes_the_next_base_is_made_while_the_old_one_follows() -> None:
    store = ChangingStore(items={1: "a"})
    index = Changing(store).index()
    await index.load()
    store.may_load.clear()
    store.loading.clear()
    many = dict.fromkeys(range(2, 1500), "m")
    store.change(many)
    await index.refresh()
    assert await creators(index) == many
    await asyncio.wait_for(store.loading.wait(), 5)
    store.change(many | {1: "again"})
    await index.refresh()
    assert await creators(index) == many | {1: "again"}
    store.may_load.set()
    before = index.current()

    async def swapped() -> bool:
        await index.refresh()
        return index.current() is not before

    await until(swapped)
    assert await creators(index) == many | {1: "again"}
    assert (store.n_loads, store.n_packs) == (2, 1)
    store.change({5: "m"})
    await index.refresh()
    assert await creators(index) == {5: "m"}


async def test_a_next_base_that_fails_is_tried_again_and_the_old_one_serves() -> None:
    store = ChangingStore(items={1: "a"})
    index = Changing(store).index()
    await index.load()
    many = dict.fromkeys(range(2, 1500), "m")
    store.change(many)
    store.may_load.clear()
    store.loading.clear()
    await index.refresh()
    await asyncio.wait_for(store.loading.wait(), 5)
    assert index._next_base is not None
    index._next_base.cancel()
    with pytest.raises(asyncio.CancelledError):
        await index._next_base
    assert await creators(index) == many


async def test_a_process_that_starts_later_lays_the_changes_over_the_file_that_is_there(tmp_path: Path) -> None:
    store = ChangingStore(items={1: "a", 2: "b"})
    await Changing(store).index(tmp_path).load()
    store.change({2: "b", 3: "c"})
    later = Changing(store).index(tmp_path)
    await later.load()
    assert await creators(later) == {2: "b", 3: "c"}
    assert store.n_loads == 1


async def test_another_embedder_means_another_index() -> None:
    @dataclass
    class Renamed(HashingEmbedder):
        name_now: str = NAME

        def __post_init__(self) -> None:
            super().__init__(64)

        @property
        def name(self) -> str:
            return self.name_now

    class AnyName(ChangingStore):
        def _answer(self, embedder_name: str) -> None:
            assert embedder_name in (NAME, "learned-2")

    embedder, store = Renamed(), AnyName(items={1: "a"})
    index = Changing(store, embedder).index()
    await index.load()
    embedder.name_now = "learned-2"
    await index.refresh()
    assert (index.current().embedder_name, store.n_loads) == ("learned-2", 2)

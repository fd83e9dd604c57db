"""The swap of one index for the next."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.errors import DependencyUnavailable
from core.ports import Floats, Ids, IndexRows
from services.index_snapshot import SnapshotDirectory
from services.refreshing_index import RefreshingIndex
from tests.support.hand_clock import HandClock
from tests.support.index_rows import make_rows
from tests.support.waiting import until

NAME = "given-1-4"


@dataclass
class ScriptedStore:
    """An ``EmbeddingStore`` of one item; its content is what ``version_now`` says, and it fails while ``down``."""

    version_now: str = "v1"
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
        return make_rows([[1, 0, 0, 0]], version=self.version_now)

    def _answer(self, embedder_name: str) -> None:
        assert embedder_name == NAME
        if self.down:
            raise DependencyUnavailable("mysql", "gone away")

    async def content_hashes(self, embedder_name: str) -> dict[int, bytes]:
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
        assert (embedder_name, n_items, recall) == (NAME, 1, 1.0)
        self.versions.append(version)


@dataclass
class Refreshing:
    """An index and what it stands on."""

    store: ScriptedStore = field(default_factory=ScriptedStore)
    clock: HandClock = field(default_factory=HandClock)
    observer: NotedLoads = field(default_factory=NotedLoads)

    def index(self, refresh_s: float = 0.001) -> RefreshingIndex:
        return RefreshingIndex(self.store, NAME, refresh_s=refresh_s, clock=self.clock, observer=self.observer)


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
        parts.store, NAME, refresh_s=1, clock=parts.clock, observer=parts.observer, before_load=embed
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
        snapshots = SnapshotDirectory(tmp_path, NAME)
        index = RefreshingIndex(
            parts.store, NAME, refresh_s=1, clock=parts.clock, observer=parts.observer, snapshots=snapshots
        )
        await index.load()
        assert (index.current().version, (await index.current().facts([1]))[0].creator) == ("v1", "creator 0")
    assert (first.store.n_loads, second.store.n_loads) == (1, 0)


async def test_without_room_for_a_file_the_index_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    parts = Refreshing()
    snapshots = SnapshotDirectory(tmp_path / "file" / "below", NAME)
    index = RefreshingIndex(
        parts.store, NAME, refresh_s=1, clock=parts.clock, observer=parts.observer, snapshots=snapshots
    )
    await index.load()
    assert index.current().version == "v1"

"""A snapshot file: what was written is what is mapped, whole or not at all."""

import os
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from core.ports.catalogue import ItemsMark
from core.ports.index import IndexMark, IndexRows
from services.coded_column import CodedColumn
from services.index_snapshot import SnapshotDirectory, SnapshotUnreadable, read_snapshot, write_snapshot
from services.vector_scan import FastScan, build_scan
from tests.support.clustered import clustered_rows

NAME = "given-1-16"


def rows_of(n: int, version: str = "v1") -> IndexRows:
    return IndexRows(
        ids=np.arange(n, dtype=np.int64) * 3,
        vectors=clustered_rows(n, 16),
        popularity=np.linspace(0, 1, n, dtype=np.float32),
        genres=CodedColumn.of([("rock", "팝"), ()][place % 2] for place in range(n)),
        moods=[("calm",)] * n,
        languages=["ko", None, "en"] * (n // 3) + ["ko"] * (n % 3),
        creators=[f"creator {place % 7}" for place in range(n)],
        version=version,
    )


@pytest.mark.parametrize(("n", "exact_below"), [(0, 10), (7, 10), (3000, 10)])
def test_what_is_read_is_what_was_written(tmp_path: Path, n: int, exact_below: int) -> None:
    rows = rows_of(n)
    scan = build_scan(rows.vectors, exact_below=exact_below)
    write_snapshot(tmp_path / "a.index", rows, scan)
    found = read_snapshot(tmp_path / "a.index")
    np.testing.assert_array_equal(found.rows.ids, rows.ids)
    np.testing.assert_array_equal(found.rows.vectors, scan.rows)
    np.testing.assert_array_equal(found.rows.popularity, rows.popularity)
    for name in ("genres", "moods", "languages", "creators"):
        assert list(getattr(found.rows, name)) == list(getattr(rows, name))
    assert (found.rows.version, found.scan.kind, found.scan.recall) == ("v1", scan.kind, scan.recall)
    queries = scan.rows[:5].astype(np.float32)
    for (places, scores), (expected, expected_scores) in zip(
        found.scan.search(queries, 20), scan.search(queries, 20), strict=True
    ):
        np.testing.assert_array_equal(places, expected)
        np.testing.assert_array_equal(scores, expected_scores)


def test_the_rows_are_mapped_rather_than_copied(tmp_path: Path) -> None:
    rows = rows_of(3000)
    write_snapshot(tmp_path / "a.index", rows, build_scan(rows.vectors, exact_below=10))
    found = read_snapshot(tmp_path / "a.index")
    assert isinstance(found.scan, FastScan)
    assert np.shares_memory(found.scan._mapped, found.scan.rows)


@pytest.mark.parametrize("kept", [0, 10, 63, 64, 200, -1])
def test_a_file_that_was_cut_off_is_no_snapshot(tmp_path: Path, kept: int) -> None:
    rows, path = rows_of(7), tmp_path / "a.index"
    write_snapshot(path, rows, build_scan(rows.vectors))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SnapshotUnreadable):
        read_snapshot(path)
    assert SnapshotDirectory(tmp_path, NAME).newest() is None


def test_a_write_that_fails_leaves_the_snapshot_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, path = rows_of(7), tmp_path / "a.index"
    write_snapshot(path, rows, build_scan(rows.vectors))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(path, rows_of(8), build_scan(rows_of(8).vectors))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_one_before_is_kept_and_older_ones_are_not(tmp_path: Path) -> None:
    directory = SnapshotDirectory(tmp_path, NAME)
    for number, version in enumerate(("v1", "v2", "v3")):
        rows = rows_of(7, version)
        directory.write(rows, build_scan(rows.vectors))
        os.utime(directory.path(version), (number, number))
    assert [directory.path(version).exists() for version in ("v1", "v2", "v3")] == [False, True, True]
    newest = directory.newest()
    assert newest is not None
    assert newest.rows.version == "v3"


def test_a_mapped_snapshot_outlives_its_file(tmp_path: Path) -> None:
    rows = rows_of(7)
    found = SnapshotDirectory(tmp_path, NAME).write(rows, build_scan(rows.vectors))
    SnapshotDirectory(tmp_path, NAME).path("v1").unlink()
    np.testing.assert_array_equal(found.rows.ids, rows.ids)


def test_one_holds_the_directory_while_others_wait(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def other() -> None:
        waiting.set()
        with SnapshotDirectory(tmp_path / "new", NAME).alone():
            order.append("other")

    with SnapshotDirectory(tmp_path / "new", NAME).alone():
        thread = threading.Thread(target=other)
        thread.start()
        waiting.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "other"]


def test_a_file_with_a_damaged_array_is_no_snapshot_and_the_one_before_is_used(tmp_path: Path) -> None:
    directory = SnapshotDirectory(tmp_path, NAME)
    for number, version in enumerate(("v1", "v2")):
        rows = rows_of(70, version)
        directory.write(rows, build_scan(rows.vectors))
        os.utime(directory.path(version), (number, number))
    whole = bytearray(directory.path("v2").read_bytes())
    whole[64 + 8] ^= 1
    directory.path("v2").write_bytes(whole)
    with pytest.raises(SnapshotUnreadable):
        read_snapshot(directory.path("v2"))
    newest = directory.newest()
    assert newest is not None
    assert newest.rows.version == "v1"


@pytest.mark.parametrize("modified_at", [None, datetime(2026, 1, 2, 3, 4, 5, 6)])  # noqa: DTZ001 - as databases hold them
def test_the_mark_is_kept(tmp_path: Path, modified_at: datetime | None) -> None:
    items = ItemsMark(modified_at, np.array([3, 5, 9], np.int64), np.array([7, -1, 2**60], np.int64))
    mark = IndexMark(origin=2**61, change_no=12, items=items)
    rows = replace(rows_of(7), mark=mark)
    write_snapshot(tmp_path / "a.index", rows, build_scan(rows.vectors))
    found = read_snapshot(tmp_path / "a.index").rows.mark
    assert found is not None
    assert (found.origin, found.change_no, found.items.modified_at) == (2**61, 12, modified_at)
    np.testing.assert_array_equal(found.items.active_ids, items.active_ids)
    np.testing.assert_array_equal(found.items.dates, items.dates)

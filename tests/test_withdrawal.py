"""Items taken out of documents that are cached already."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.withdrawal import without_items
from tests.support.catalogue import SONGS

IDS = st.integers(1, 8)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.lists(st.lists(IDS, max_size=4), max_size=4))
    return {
        "status": "completed",
        "groups": [{"label": "l", "songs": [{"song_id": each, "rank": 9} for each in group]} for group in groups],
        "candidates": [{"song_id": each, "match_score": 1.25} for each in draw(st.lists(IDS, max_size=8))],
        "extra": {"kept": [1, None, "x"]},
    }


def ids_of(document: dict[str, Any]) -> list[list[int]]:
    grouped = [[song["song_id"] for song in group["songs"]] for group in document["groups"]]
    return [*grouped, [row["song_id"] for row in document["candidates"]]]


@given(documents(), st.frozensets(IDS, max_size=4))
def test_exactly_these_items_are_gone_and_all_else_is_as_it_was(document: dict[str, Any], gone: frozenset[int]) -> None:
    cleaned = without_items(orjson.dumps(document), gone, SONGS)
    held = gone.intersection(*[{each for ids in ids_of(document) for each in ids}])
    if not held:
        assert cleaned is None
        return
    assert cleaned is not None
    found = orjson.loads(cleaned)
    *grouped, candidates = ids_of(document)
    left = [[each for each in group if each not in gone] for group in grouped]
    assert ids_of(found) == [*[group for group in left if group], [each for each in candidates if each not in gone]]
    ranks = [song["rank"] for group in found["groups"] for song in group["songs"]]
    assert ranks == list(range(1, len(ranks) + 1))
    assert (found["status"], found["extra"]) == ("completed", {"kept": [1, None, "x"]})


@given(documents(), st.frozensets(IDS, min_size=1))
def test_a_second_time_there_is_nothing_to_take_out(document: dict[str, Any], gone: frozenset[int]) -> None:
    cleaned = without_items(orjson.dumps(document), gone, SONGS)
    assert without_items(cleaned or orjson.dumps(document), gone, SONGS) is None


@pytest.mark.parametrize("document", [b"", b"\xff", b"[]", b"5", b"{}", b'{"groups": 5, "candidates": {"song_id": 1}}'])
def test_what_is_none_of_ours_is_left_alone(document: bytes) -> None:
    assert without_items(document, frozenset({1}), SONGS) is None

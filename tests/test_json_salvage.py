"""What can be read of JSON that a model broke off or garbled, and what it costs to find out."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.json_salvage import MAX_CHARS, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=5)


@given(OBJECTS)
def test_a_whole_object_is_read_as_it_is(document: dict[str, object]) -> None:
    assert read_object(json.dumps(document)) == (document, True)


@given(OBJECTS, st.text(alphabet="abc \n`", max_size=20), st.text(max_size=20))
def test_words_around_an_object_do_not_matter(document: dict[str, object], before: str, after: str) -> None:
    assert read_object(f"{before}{json.dumps(document)}{after}") == (document, True)


def test_a_brace_in_the_words_before_it_starts_no_object() -> None:
    assert read_object('I choose {five} of {these: {"groups": [1]}}') == ({"groups": [1]}, True)


@given(st.lists(OBJECTS, min_size=1, max_size=6), st.data())
def test_of_an_object_that_is_cut_short_all_that_was_complete_is_kept(
    entries: list[dict[str, object]], data: st.DataObject
) -> None:
    text = json.dumps({"entries": entries})
    ends = [len(json.dumps({"entries": entries[:n]})) - 2 for n in range(len(entries) + 1)]
    cut = data.draw(st.integers(ends[1], len(text) - 1))
    n_whole = sum(end <= cut for end in ends[1:])
    salvaged, is_whole = read_object(text[:cut])
    assert not is_whole
    kept = salvaged["entries"]
    assert isinstance(kept, list)
    assert kept[:n_whole] == entries[:n_whole]


@given(st.text(max_size=200))
def test_any_text_gives_an_object_or_a_value_error(text: str) -> None:
    try:
        document, _ = read_object("{" + text)
    except ValueError:
        return
    assert isinstance(document, dict)


@pytest.mark.parametrize("text", ["", "no brace", "[1, 2]", '{"a": ', "{'a': 1}"])
def test_where_nothing_was_complete_there_is_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        read_object(text)


@pytest.mark.parametrize("part", ["[],", "{},", '{"h":1},', "[[]],"])
def test_a_long_garbled_answer_costs_memory_in_proportion_to_its_length(part: str) -> None:
    text = '{"groups": [' + part * (MAX_CHARS // len(part)) + "!"
    tracemalloc.start()
    try:
        read_object(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Every prefix of it together would be a gigabyte.
    assert peak < 300 * len(text)

"""Files of interactions, queries and items with bad rows: each is said with its line and value, and stops no other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigurationError
from tests.support.mutations import mutated
from training.interaction_files import read_interactions, read_items, read_queries

HEADER = b"user_id,item_id,weight,occurred_at\n"
BAD = {
    b",b,1,": "user_id is empty, got ''",
    b"a,,1,": "item_id is empty, got ''",
    b"a\xff,b,1,": r"user_id is not UTF-8, got 'a\udcff'",
    b"a,b,much,": "weight is no number, got 'much'",
    b"a,b,1e99,": "weight is above 1e+15, got '1e99'",
    b"a,b," + b"m" * 500 + b",": f"weight is no number, got '{'m' * 40}...'",
    b"a,b,1,soon": "occurred_at is no instant, got 'soon'",
    b"a,b,1,nan": "occurred_at is no instant, got 'nan'",
    b"a,b,1,2024-02-30": "occurred_at is no instant, got '2024-02-30'",
    b"a," + b"x" * 140_000 + b",1,": "is no CSV: field larger than field limit (131072)",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


@pytest.mark.parametrize("row", BAD)
def test_a_bad_row_is_told_with_its_line_and_stops_no_other(path: Path, row: bytes) -> None:
    path.write_bytes(HEADER + b"u,i,2,5\n" + row + b"\nv,j,3,6\n")
    with structlog.testing.capture_logs() as logs:
        data = read_interactions(path)
    assert (data.user_ids, data.item_ids, data.weights.tolist()) == (["u", "v"], ["i", "j"], [2.0, 3.0])
    (line,) = [each for each in logs if each["event"] == "rows_left_out"]
    assert (line["file"], line["n_rows"], line["first"]) == ("rows.csv", 1, [f"line 3: {BAD[row]}"])


@pytest.mark.parametrize("row", BAD)
def test_a_file_of_bad_rows_alone_is_refused_with_the_first(path: Path, row: bytes) -> None:
    path.write_bytes(HEADER + (row + b"\n") * 5)
    with pytest.raises(ConfigurationError) as caught:
        read_interactions(path)
    assert str(caught.value) == f"{path}, line 2: {BAD[row]}"


def test_of_many_bad_rows_the_first_three_are_shown_and_all_counted(path: Path) -> None:
    path.write_bytes(HEADER + b",x,1,\n" * 500 + b"u,i,2,5\n")
    with structlog.testing.capture_logs() as logs:
        read_interactions(path)
    (line,) = [each for each in logs if each["event"] == "rows_left_out"]
    assert (line["n_rows"], len(line["first"])) == (500, 3)


@pytest.mark.parametrize("n_rows", [3, 400])
def test_a_quote_that_is_not_closed_costs_one_row(path: Path, n_rows: int) -> None:
    rows = [b"u%d,i,1,\n" % number for number in range(n_rows)]
    path.write_bytes(HEADER + rows[0] + b'"broken,i,1,\n' + b"".join(rows[1:]))
    assert read_interactions(path).user_ids == [f"u{number}" for number in range(n_rows)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"user_id;item_id\n1;2\n", "no column user_id, item_id; it has user_id;item_id"),
        ("user_id,item_id\n1,2\n".encode("utf-16"), "no column user_id, item_id"),
        (b"", "no column user_id, item_id; it has none"),
        (b"\0\0\0\0", "no column user_id, item_id"),
        (b'"' + b"\n" * 60, "is no CSV: a quote is not closed"),
        (b"user_id\xff,item_id\n1,2\n", "no column user_id; it has user_id\ufffd, item_id"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_a_short_sentence(path: Path, content: bytes, problem: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_interactions(path)
    assert str(caught.value).startswith(f"{path}, line 1: {problem}")
    assert str(caught.value).encode()


def test_a_bad_row_of_a_query_leaves_the_query_known(path: Path) -> None:
    path.write_bytes(b"query_id,item_id,weight\nq,x,much\nr,x,1\nr,\xff,1\n,x,1\n")
    queries, unknown = read_queries(path, {"x": 0})
    assert (queries.query_ids, queries.likes.items.tolist(), unknown) == (["q", "r"], [0], [])


def test_text_of_items_that_is_no_utf_8_is_replaced_and_a_wrong_id_left_out(path: Path) -> None:
    path.write_bytes(b"item_id,title,tempo\na,Caf\xe9,1\n\xff,x,2\nb,\xf0\x9f\x8e\xb5,nan\n")
    table = read_items(path)
    assert (table.item_ids, table.texts["title"]) == (["a", "b"], ["Caf\ufffd", "🎵"])
    assert table.numbers["tempo"][0] == 1


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_no_bytes_after_the_header_stop_the_reading(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    path.write_bytes(HEADER + b"first,i,1,\n" + content + b"\nlast,j,1,\n")
    data = read_interactions(path)
    assert {"first", "last"} <= set(data.user_ids)
    assert np.isfinite(data.weights).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_no_mutation_of_a_file_makes_anything_but_rows_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    path.write_bytes(mutated(HEADER + b"u,i,2,5\nv,j,3,1700000000\nw,k,,2024-01-01T00:00:00Z\n", seed))
    for read in (read_interactions, read_items, lambda each: read_queries(each, {"i": 0})):
        sentence_of(read, path).encode()


def sentence_of(read: Callable[[Path], object], path: Path) -> str:
    try:
        read(path)
    except ConfigurationError as error:
        return str(error)
    return ""

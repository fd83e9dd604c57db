"""Ranking and measuring from files, by the command line and by the functions behind it."""

import asyncio
import csv
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from threadpoolctl import threadpool_limits

from core.collaborative import Floats, Indices, Likes
from core.errors import ConfigurationError
from core.splits import Interactions
from tests.support.command import run_command
from tests.support.worker_process import ROOT
from training import baselines
from training.evaluate import Row, evaluate, fit_methods, split_of
from training.interaction_files import dataset_files, read_interactions, read_items, read_queries
from training.item_content import content_counts, content_of
from training.rank import Ranker, RankReport, rank
from training.validation import listeners_of

N_GENRES, N_ITEMS = 4, 40
BASELINES = ["popularity", "item-kNN", "ALS", "EASE"]


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """As the commands have it: on matrices this small a second thread only spins."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Users who like one genre each; items i0 to i39, item i of genre i % 4, and c0 to c3 that nobody has."""
    chance = np.random.default_rng(0)
    rows = ["user_id,item_id,weight,occurred_at"]
    for user in range(80):
        liked = chance.choice(N_ITEMS // N_GENRES, 6, replace=False) * N_GENRES + user % N_GENRES
        rows += [f"u{user},i{item},1,{1_700_000_000 + int(chance.integers(0, 10**6))}" for item in liked]
    write(tmp_path / "train.csv", rows)
    items = [f"i{item},genre{item % N_GENRES},{item % N_GENRES}" for item in range(N_ITEMS)]
    cold = [f"c{genre},genre{genre},{genre}" for genre in range(N_GENRES)]
    write(tmp_path / "items.csv", ["item_id,genre,number", *items, *cold])
    queries = ["a,i0,1", "a,i4,1", "b,i1,", "cold,c2,1", "unknown,nosuch,1", "disliked,i3,0"]
    write(tmp_path / "queries.csv", ["query_id,item_id,weight", *queries])
    return tmp_path


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines), encoding="utf-8")


def ranked(files: Path, *, items: bool = True, n: int = 5) -> tuple[RankReport, dict[str, list[str]]]:
    path = files / "items.csv" if items else None
    out = files / "ranked.csv"
    report = rank(files / "train.csv", files / "queries.csv", out, items=path, n=n, budget_s=0)
    lists: dict[str, list[str]] = {}
    with out.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            lists.setdefault(row["query_id"], []).append(row["item_id"])
            assert int(row["rank"]) == len(lists[row["query_id"]])
    return report, lists


def genre(item: str) -> int:
    return int(item[1:]) % N_GENRES


def test_a_query_gets_the_genre_of_its_likes_without_the_likes(files: Path) -> None:
    _, lists = ranked(files, items=False)
    assert {genre(item) for item in lists["a"]} == {0}
    assert {genre(item) for item in lists["b"]} == {1}
    assert not {"i0", "i4"} & set(lists["a"])


def test_a_query_of_items_that_nobody_has_gets_their_neighbours_by_content(files: Path) -> None:
    report, lists = ranked(files)
    assert report.n_by_content == 1
    assert {genre(item) for item in lists["cold"]} == {2}
    assert "c2" not in lists["cold"]


def test_no_list_is_empty_and_popularity_is_the_last_resort(files: Path) -> None:
    report, lists = ranked(files)
    assert (report.n_queries, report.n_by_popularity) == (5, 2)
    assert {name: len(items) for name, items in lists.items()} == dict.fromkeys(
        ("a", "b", "cold", "unknown", "disliked"), 5
    )
    assert lists["unknown"] == lists["disliked"]


def test_the_same_files_give_the_same_lists(files: Path) -> None:
    assert ranked(files)[1] == ranked(files)[1]


def test_a_list_ends_where_the_items_end(files: Path) -> None:
    _, lists = ranked(files, items=False, n=1000)
    assert len(lists["a"]) == N_ITEMS - 2
    assert len(set(lists["a"])) == N_ITEMS - 2


def test_ids_are_kept_to_the_letter(files: Path) -> None:
    odd = ["007", "7", "ヨルシカ", '"a, ""b"""', "1e3"]
    rows = [f"u{user},{odd[(user + step) % 5]}" for user in range(40) for step in range(3)]
    write(files / "train.csv", ["user_id,item_id", *rows])
    write(files / "queries.csv", ["query_id,item_id", "007,7", '"q, 1",007'])
    _, lists = ranked(files, items=False)
    assert set(lists) == {"007", "q, 1"}
    assert set(lists["007"]) == {"007", "ヨルシカ", 'a, "b"', "1e3"}
    assert set(lists["q, 1"]) == {"7", "ヨルシカ", 'a, "b"', "1e3"}


def test_a_heavier_like_counts_more_in_a_query(files: Path) -> None:
    write(files / "queries.csv", ["query_id,item_id,weight", "a,i0,9", "a,i1,1", "b,i0,1", "b,i1,9"])
    _, lists = ranked(files, items=False, n=38)

    def mean_place(query: str, of_genre: int) -> float:
        return float(np.mean([place for place, item in enumerate(lists[query]) if genre(item) == of_genre]))

    assert mean_place("a", 0) < mean_place("b", 0)
    assert mean_place("b", 1) < mean_place("a", 1)


def test_a_user_who_played_an_item_more_says_more_about_it(files: Path) -> None:
    users = [
        f"u{user},{item},{weight}" for user in range(30) for item, weight in (("seed", 5), ("often", 50), ("x", 5))
    ]
    others = [
        f"v{user},{item},{weight}" for user in range(30) for item, weight in (("seed", 5), ("rarely", 1), ("x", 5))
    ]
    write(files / "train.csv", ["user_id,item_id,weight", *users, *others])
    write(files / "queries.csv", ["query_id,item_id", "q,seed"])
    _, lists = ranked(files, items=False)
    assert lists["q"].index("often") < lists["q"].index("rarely")


@pytest.mark.parametrize(
    ("train", "asked", "expected"),
    [
        (["u,i"], ["q,i"], {}),
        (["u,i", "u,j"], ["q,i", "p,j"], {"q": ["j"], "p": ["i"]}),
        (["u,i", "v,i"], ["q,nosuch"], {"q": ["i"]}),
        (["u,i", "u,j", "v,i"], ["u,i", "u,j"], {}),
        (["u,i", "u,i", "u,j", "v,i"], ["q,"], {"q": ["i", "j"]}),
        (["u,i", "v,j"], [], {}),
    ],
    ids=["one user, one item", "one user", "one item", "everything liked", "nothing asked, a pair twice", "no query"],
)
def test_the_smallest_of_data_is_ranked(
    files: Path, train: list[str], asked: list[str], expected: dict[str, list[str]]
) -> None:
    write(files / "train.csv", ["user_id,item_id", *train])
    write(files / "queries.csv", ["query_id,item_id", *asked])
    report, lists = ranked(files, items=False)
    assert lists == expected
    assert report.n_complete == (1 if asked and not expected else 0)


def test_progress_is_told_up_to_the_last_query(files: Path) -> None:
    told: list[str] = []
    rank(files / "train.csv", files / "queries.csv", files / "ranked.csv", budget_s=0, tell=told.append)
    assert told[0].startswith("480 pairs of 80 users and 40 items")
    assert told[-1] == "ranking for query 1 of 5"


def test_queries_are_ranked_in_portions_by_how_many_items_there_are(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million items times a thousand queries would take gigabytes."""
    at_once: list[int] = []
    whole = Ranker.top

    def noted(self: Ranker, likes: Likes, n: int) -> tuple[Indices, Floats]:
        at_once.append(likes.n_rows)
        return whole(self, likes, n)

    monkeypatch.setattr(Ranker, "top", noted)
    report, lists = ranked(files)
    assert at_once == [5]
    at_once.clear()
    monkeypatch.setattr("training.rank._MAX_SCORES", 2 * (N_ITEMS + N_GENRES) + 1)
    assert ranked(files) == (report, lists)
    assert at_once == [2, 2, 1]
    at_once.clear()
    monkeypatch.setattr("training.rank._MAX_SCORES", 1)
    assert ranked(files) == (report, lists)
    assert at_once == [1] * 5


def test_what_stops_half_way_leaves_the_file_that_was_there(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write(files / "ranked.csv", ["as it was"])
    monkeypatch.setattr(Ranker, "top", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rank(files / "train.csv", files / "queries.csv", files / "ranked.csv", budget_s=0)
    assert (files / "ranked.csv").read_text(encoding="utf-8") == "as it was"
    assert not list(files.glob("*.partial"))


async def test_control_c_ends_a_command_without_a_traceback(files: Path) -> None:
    arguments = [f"--{name}={files / name}.csv" for name in ("train", "queries")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "main.py"),
        "rank",
        *arguments,
        f"--out={files / 'out.csv'}",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), 60)
    process.send_signal(signal.SIGINT)
    _, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130
    assert b"Traceback" not in complaints
    assert not await asyncio.to_thread(lambda: list(files.glob("out.csv*")))


async def test_the_command_ranks(files: Path) -> None:
    arguments = [f"--{name}={files / name}.csv" for name in ("train", "queries", "items")]
    outcome = await run_command(
        "rank", *arguments, f"--out={files / 'out.csv'}", "--n=3", "--budget-s=0", environment={}
    )
    assert (outcome.code, outcome.out.splitlines()[0]) == (
        0,
        "5 queries ranked; 1 by content, 2 by popularity",
    )
    assert (files / "out.csv").read_text(encoding="utf-8").startswith("query_id,rank,item_id,score")


async def test_a_file_without_the_columns_is_said_in_one_sentence(files: Path) -> None:
    write(files / "train.csv", ["who,what", "1,2"])
    outcome = await run_command("evaluate", str(files / "train.csv"), environment={})
    assert outcome.code == 2
    assert "no column user_id, item_id; it has who, what" in outcome.err.replace("\n", " ")


# --- evaluate ---


@pytest.mark.parametrize("protocol", ["known", "new", "cold", "time"])
def test_every_protocol_measures_ours_beside_the_baselines(files: Path, protocol: str) -> None:
    out = files / "figures.json"
    found = evaluate(files / "train.csv", protocol, items=files / "items.csv", k=5, budget_s=0, json_out=out)
    rows = {row.method: row for row in found.rows}
    others = ["one list, at random", "mean content, cosine"] if protocol == "cold" else BASELINES
    assert list(rows) == [*others, "ours"]
    assert rows["ours"].ndcg.value > rows[others[0]].ndcg.value
    assert json.loads(out.read_text(encoding="utf-8"))["rows"][-1]["ndcg"]["value"] == rows["ours"].ndcg.value
    for measure in fields(Row)[1:9]:
        assert all(getattr(row, measure.name).low <= getattr(row, measure.name).value for row in found.rows)
    assert len([part for part in found if isinstance(part, Table)]) == 1
    assert list(found.left_out) == (["popularity, item-kNN, ALS and EASE"] if protocol == "cold" else [])


@pytest.mark.parametrize("protocol", ["known", "new", "cold", "time"])
def test_what_was_liked_in_the_test_part_changes_no_list(files: Path, protocol: str) -> None:
    data = read_interactions(files / "train.csv")
    split = split_of(data, protocol, 0)
    asked = np.flatnonzero(split.targets)
    others = data.items.copy()
    # in protocol cold the same items stay cold, but they were liked by others
    others[asked] = data.items[asked[::-1]] if protocol == "cold" else (data.items[asked] + 1) % N_ITEMS
    places = {item: place for place, item in enumerate(data.item_ids)}
    counts = content_counts(read_items(files / "items.csv").only(places), places, len(places))
    inputs, _ = listeners_of(data, split, len(places))

    def lists(of: Interactions) -> dict[str, list[list[int]]]:
        found = fit_methods(of, split, protocol, counts, k=5, budget_s=0).lists
        return {name: lister(inputs).tolist() for name, lister in found.items()}

    assert lists(data) == lists(replace(data, items=others))


def test_what_does_not_fit_is_left_out_and_said(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_MAX_EXACT", N_ITEMS - 1)
    told: list[str] = []
    out = files / "figures.json"
    found = evaluate(files / "train.csv", "new", k=5, budget_s=0, json_out=out, tell=told.append)
    assert [row.method for row in found.rows] == ["popularity", "item-kNN", "ALS", "ours"]
    sentence = "it holds items x items: at most 39 of them, got 40"
    assert f"EASE: left out, {sentence}" in told
    assert f"EASE: left out, {sentence}" in list(found)
    assert json.loads(out.read_text(encoding="utf-8"))["left_out"] == {"EASE": sentence}


def test_a_file_that_cannot_be_written_is_refused_before_the_work(files: Path) -> None:
    told: list[str] = []
    with pytest.raises(ConfigurationError, match=r"there is no directory .*nowhere"):
        evaluate(files / "train.csv", "new", json_out=files / "nowhere" / "out.json", tell=told.append)
    assert told == []


def test_a_file_without_a_header_may_say_when(tmp_path: Path) -> None:
    write(tmp_path / "u.data", ["196\t242\t3\t881250949", "186\t302\t3\t891717742"])
    data = read_interactions(tmp_path / "u.data")
    assert (data.user_ids, data.weights.tolist()) == (["196", "186"], [3.0, 3.0])
    assert data.times_s is not None
    assert data.times_s.tolist() == [881250949, 891717742]


def test_cold_items_need_to_be_described(files: Path) -> None:
    with pytest.raises(ConfigurationError, match="give --items"):
        evaluate(files / "train.csv", "cold", budget_s=0)


@pytest.mark.parametrize("lines", [["item_id", "i0", "i1"], ["item_id,genre", "i0,", "elsewhere,rock"]])
def test_a_file_of_items_that_says_nothing_of_them_is_not_asked_for_again(files: Path, lines: list[str]) -> None:
    write(files / "bare.csv", lines)
    with pytest.raises(ConfigurationError, match="content columns beside item_id") as refused:
        evaluate(files / "train.csv", "cold", items=files / "bare.csv", budget_s=0)
    assert "give --items" not in str(refused.value)


def test_data_of_which_nobody_is_left_to_ask_is_refused(files: Path) -> None:
    write(files / "train.csv", ["user_id,item_id", "u,i", "v,j"])
    with pytest.raises(ConfigurationError, match="too little data for protocol known"):
        evaluate(files / "train.csv", "known", budget_s=0)


def test_a_split_by_time_needs_instants(files: Path) -> None:
    write(files / "train.csv", ["user_id,item_id", *(f"u{i % 9},i{i % 7}" for i in range(60))])
    with pytest.raises(ConfigurationError, match="occurred_at"):
        evaluate(files / "train.csv", "time", budget_s=0)
    with pytest.raises(ConfigurationError, match="known, new, cold or time"):
        evaluate(files / "train.csv", "other", budget_s=0)


# --- files ---


def test_repeated_pairs_add_up_and_dislikes_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    lines = [
        "\ufeffitem_id,user_id,weight,occurred_at",
        "x,1,2,2024-01-01T00:00:00Z",
        "x,1,,1800000000000",
        "y,1,-1,",
        "x,2,0,",
    ]
    write(path, lines)
    data = read_interactions(path)
    assert (data.user_ids, data.item_ids, data.weights.tolist()) == (["1"], ["x"], [3.0])
    assert data.times_s is not None
    assert data.times_s.tolist() == [1_800_000_000]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["user_id,item_id,weight", "1,2,much"], "line 2: weight is no number, got 'much'"),
        (["user_id,item_id", ""], "no interaction"),
        (["user_id", "1"], "no column item_id; it has user_id"),
        (["user_id,item_id", ",2"], "line 2: user_id is empty, got ''"),
        (["user_id,item_id", "1,"], "line 2: item_id is empty, got ''"),
        (["user_id,item_id,occurred_at", "1,2,soon"], "line 2: occurred_at is no instant, got 'soon'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, lines: list[str], sentence: str) -> None:
    write(tmp_path / "train.csv", lines)
    with pytest.raises(ConfigurationError, match=sentence):
        read_interactions(tmp_path / "train.csv")
    with pytest.raises(ConfigurationError, match="No such file"):
        read_interactions(tmp_path / "nothing.csv")


def test_tabs_and_names_of_other_data_sets_are_taken_too(tmp_path: Path) -> None:
    write(tmp_path / "plays.dat", ["userID\tartistID\tweight", '2\t51"\t13883', "3\t51\t2"])
    data = read_interactions(tmp_path / "plays.dat")
    assert (data.user_ids, data.item_ids, data.weights.tolist()) == (["2", "3"], ['51"', "51"], [13883, 2])
    write(tmp_path / "bare.dat", ["2\t51\t13883", "3\t51\t2"])
    assert read_interactions(tmp_path / "bare.dat").user_ids == ["2", "3"]
    write(tmp_path / "named.csv", ["user,user_id,item_id", "no,yes,x"])
    assert read_interactions(tmp_path / "named.csv").user_ids == ["yes"]


def test_a_directory_holds_both_files(files: Path) -> None:
    (files / "train.csv").rename(files / "interactions.csv")
    assert dataset_files(files) == (files / "interactions.csv", files / "items.csv")
    assert dataset_files(files, files / "other.csv")[1] == files / "other.csv"
    assert dataset_files(files / "queries.csv") == (files / "queries.csv", None)


def test_rows_of_one_item_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", ["item_id,tag,year", "x,rock,1990", "x,metal,1991", "x,rock,", "y,,"])
    table = read_items(tmp_path / "items.csv")
    assert table.texts == {"tag": ["rock metal rock", ""]}
    assert table.numbers["year"][0] == 1990


def test_weights_of_a_query_add_up(tmp_path: Path) -> None:
    write(tmp_path / "queries.csv", ["query_id,item_id,weight", "q,x,2", "q,x,", "q,y,0.5", "q,z,-1"])
    queries, _ = read_queries(tmp_path / "queries.csv", {"x": 0, "y": 1, "z": 2})
    assert (queries.likes.items.tolist(), queries.likes.weights.tolist()) == ([0, 1], [3, 0.5])


def test_items_that_nobody_knows_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "queries.csv", ["query_id,item_id", "q,x", "q,new", "q,x", "p,"])
    queries, unknown = read_queries(tmp_path / "queries.csv", {"x": 0})
    assert (queries.query_ids, unknown, queries.likes.counts.tolist()) == (["q", "p"], ["new"], [2, 0])


def test_near_numbers_and_equal_words_are_content_in_common(tmp_path: Path) -> None:
    rows = [f"{i},{'Rock' if i < 20 else 'pop'},{i}" for i in range(40)]
    write(tmp_path / "items.csv", ["item_id,genre,year", *rows, "odd,ROCK,"])
    table = read_items(tmp_path / "items.csv")
    assert (list(table.texts), list(table.numbers)) == (["genre"], ["year"])
    content = content_of(table, {item: place for place, item in enumerate(table.item_ids)}, 41).toarray()
    near, far = content[0] @ content[1], content[0] @ content[19]
    assert near > far > content[0] @ content[39]
    assert content[40] @ content[0] > 0

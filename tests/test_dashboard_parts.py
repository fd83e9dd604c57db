"""What the dashboard's pages are made of: the client, figures read from metrics, songs as text, drawings."""

import math
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dashboard.api_client import Api, ApiProblem, Trouble
from dashboard.charts import (
    bars,
    embedding_map,
    lines,
    mean_features,
    on_scale,
    radar,
    shares_over_time,
    shown_features,
)
from dashboard.exposition import read_figures
from dashboard.shapes import Item, Liked, Recommended
from dashboard.songs import evidence_line, headline, moved, named, plain
from dashboard.taste import genre_counts, taste_over_time
from dashboard.texts import Texts
from tests.support.http_app import make_metrics

EN = Texts("en")


def song(item_id: int = 1, **given_fields: object) -> Item:
    item = {
        "itemId": item_id, "titles": {"en": "Halo", "ko": "헤일로"}, "creator": "Beyoncé", "creatorLocal": "비욘세",
        "genres": ["pop"], "moods": [], "language": "en", "popularity": 0.5, "features": {},
    }  # fmt: skip
    return cast("Item", {**item, **given_fields})


# --- the client ---


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[httpx.Response | Exception]]:
    """What the API answers, in order, and to which requests."""
    waiting: list[httpx.Response | Exception] = []

    def answer(request: httpx.Request) -> httpx.Response:
        found = waiting.pop(0)
        if isinstance(found, Exception):
            raise found
        found.request = request
        return found

    made = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: made(transport=httpx.MockTransport(answer), **options))
    yield waiting
    assert not waiting


def problem(status: int) -> httpx.Response:
    return httpx.Response(status, json={"title": "No", "detail": "the API's own sentence"})


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (httpx.ConnectError("refused"), Trouble.UNREACHABLE),
        (httpx.ReadTimeout(""), Trouble.UNREACHABLE),
        (problem(401), Trouble.KEY),
        (problem(403), Trouble.KEY),
        (problem(404), Trouble.NOT_FOUND),
        (problem(422), Trouble.REFUSED),
        (problem(429), Trouble.BUSY),
        (problem(503), Trouble.BUSY),
        (problem(500), Trouble.REFUSED),
    ],
    ids=repr,
)
def test_what_went_wrong_is_told_by_what_can_be_done(
    answers: list[httpx.Response | Exception], answer: httpx.Response | Exception, trouble: Trouble
) -> None:
    answers.append(answer)
    with closing(Api("http://api.example")) as api, pytest.raises(ApiProblem) as told:
        api.catalogue()
    assert told.value.trouble is trouble
    assert told.value.detail


def test_an_answer_that_is_no_problem_document_is_told_by_its_status(
    answers: list[httpx.Response | Exception],
) -> None:
    answers.append(httpx.Response(502, text="<html>Bad gateway</html>"))
    with closing(Api("http://api.example")) as api, pytest.raises(ApiProblem, match="502"):
        api.models()


def test_what_is_not_the_api_is_told_as_an_api_that_is_not_there(answers: list[httpx.Response | Exception]) -> None:
    with closing(Api("http://api.example")) as api:
        for ask in (api.catalogue, api.health):
            answers.append(httpx.Response(200, text="<html>Another server</html>"))
            with pytest.raises(ApiProblem, match="not the API's") as told:
                ask()
            assert told.value.trouble is Trouble.UNREACHABLE


@pytest.mark.parametrize("url", ["http://host:port", "127.0.0.1:8000", "ftp://api.example", "http://h\n.x"])
def test_an_api_url_that_is_no_address_is_told_with_its_value(url: str) -> None:
    with closing(Api(url)) as api:
        for ask in (api.catalogue, api.health, api.metrics):
            with pytest.raises(ApiProblem) as told:
                ask()
            assert told.value.trouble is Trouble.ADDRESS
            assert f"API_URL={url}" in told.value.detail


@pytest.mark.parametrize("url", ["http://worker:port/metrics", "worker:8000/metrics", "http://w\n/metrics"])
def test_a_metrics_url_that_is_no_address_is_told_with_its_value(url: str) -> None:
    with closing(Api("http://api.example", metrics_url=url)) as api, pytest.raises(ApiProblem) as told:
        api.metrics()
    assert told.value.trouble is Trouble.METRICS
    assert f"METRICS_URL={url}" in told.value.detail


def test_a_metrics_url_at_which_nobody_answers_as_a_worker_is_told(answers: list[httpx.Response | Exception]) -> None:
    with closing(Api("http://api.example", metrics_url="http://127.0.0.1:9/metrics")) as api:
        for answer in (httpx.ConnectError("refused"), problem(404)):
            answers.append(answer)
            with pytest.raises(ApiProblem, match=r"METRICS_URL=http://127\.0\.0\.1:9/metrics") as told:
                api.metrics()
            assert told.value.trouble is Trouble.METRICS


def test_a_password_in_an_address_is_not_told(answers: list[httpx.Response | Exception]) -> None:
    secret = "http://me:hunter2@127.0.0.1:9"
    with closing(Api(secret, metrics_url=f"{secret}/metrics")) as api:
        for ask in (api.catalogue, api.metrics):
            answers.append(httpx.ConnectError("refused"))
            with pytest.raises(ApiProblem, match=r"//\*\*\*@127\.0\.0\.1:9") as told:
                ask()
            assert "hunter2" not in told.value.detail


@pytest.mark.parametrize("metrics_url", ["", "http://worker.example/metrics"])
def test_a_key_that_is_no_header_is_told_without_the_key(
    answers: list[httpx.Response | Exception], metrics_url: str
) -> None:
    answers.append(httpx.LocalProtocolError("Illegal header value b'ab\x00cd'"))
    with closing(Api("http://api.example", key="ab\x00cd", metrics_url=metrics_url)) as api:
        with pytest.raises(ApiProblem) as told:
            api.metrics()
        assert told.value.trouble is Trouble.KEY
        assert "ab" not in told.value.detail


@pytest.mark.parametrize(("key", "sent"), [("s3cret\n", b"s3cret"), ("열쇠", "열쇠".encode())])
def test_a_key_is_sent_as_it_is_but_for_space_around_it(
    answers: list[httpx.Response | Exception], key: str, sent: bytes
) -> None:
    answer = httpx.Response(401, json={"detail": "wrong key"})
    answers.append(answer)
    with closing(Api("http://api.example", key=key)) as api, pytest.raises(ApiProblem, match="wrong key"):
        api.models()
    assert dict(answer.request.headers.raw)[b"X-API-Key"] == sent


@pytest.mark.parametrize("document", [{"detail": "later"}, {"status": "down"}, ["checks"]], ids=repr)
def test_health_that_a_proxy_answers_is_told_as_its_problem(
    answers: list[httpx.Response | Exception], document: object
) -> None:
    answers.append(httpx.Response(503, json=document))
    with closing(Api("http://api.example")) as api, pytest.raises(ApiProblem) as told:
        api.health()
    assert told.value.trouble is Trouble.BUSY


def test_json_of_another_server_is_told_as_an_api_that_is_not_there(answers: list[httpx.Response | Exception]) -> None:
    with closing(Api("http://api.example")) as api:
        for ask, document in ((api.catalogue, {"nItems": 1}), (api.health, {"status": "UP"}), (api.models, [])):
            answers.append(httpx.Response(200, json=document))
            with pytest.raises(ApiProblem, match="not the API's"):
                ask()


def test_health_is_told_while_something_is_down(answers: list[httpx.Response | Exception]) -> None:
    answers.append(httpx.Response(503, json={"status": "unavailable", "checks": {}}))
    with closing(Api("http://api.example")) as api:
        assert api.health()["status"] == "unavailable"


def test_the_key_goes_with_every_request(answers: list[httpx.Response | Exception]) -> None:
    answer = httpx.Response(200, json={"fates": {}})
    answers.append(answer)
    with closing(Api("http://api.example/", key="s3cret")) as api:
        api.replay(["a"])
    assert answer.request.headers["X-API-Key"] == "s3cret"
    assert str(answer.request.url) == "http://api.example/dead-letters/replay"


def test_every_worker_behind_one_name_is_asked_for_its_metrics(
    answers: list[httpx.Response | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 8000)) for host in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    told = [httpx.Response(200, text="one 1\n"), httpx.Response(200, text="two 1\n")]
    answers += told
    with closing(Api("http://api.example", metrics_url="http://worker:8000/metrics")) as api:
        assert api.metrics() == ["one 1\n", "two 1\n"]
    assert [str(each.request.url) for each in told] == ["http://10.0.0.1:8000/metrics", "http://10.0.0.2:8000/metrics"]
    assert {each.request.headers["Host"] for each in told} == {"worker:8000"}


def test_a_name_that_nobody_knows_is_told_by_the_request(
    answers: list[httpx.Response | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    answers.append(httpx.ConnectError("Name or service not known"))
    with closing(Api("http://api.example")) as api, pytest.raises(ApiProblem, match="not known"):
        api.metrics()


# --- figures ---


def test_the_figures_are_found_in_what_a_worker_exposes() -> None:
    figures = read_figures([make_metrics().expose("")[0].decode()])
    assert {"succeeded", "retried", "dead_lettered", "cancelled"} <= set(figures.outcomes)
    assert set(figures.dead) == {"jobs", "events"}
    assert figures.mean_s is None


def test_counts_are_added_up_and_of_what_all_see_the_greatest_is_taken() -> None:
    one = (
        "# TYPE songs_ai_recommendations_total counter\n"
        'songs_ai_recommendations_total{outcome="succeeded",source="login"} 2\n'
        'songs_ai_recommendations_total{outcome="succeeded",source="http"} 1\n'
        "# TYPE songs_ai_queue_messages gauge\n"
        'songs_ai_queue_messages{route="main"} %d\n'
        "# TYPE songs_ai_jobs_waiting gauge\n"
        'songs_ai_jobs_waiting{route="main",delay="5s"} 1\n'
        'songs_ai_jobs_waiting{route="main",delay="30s"} 2\n'
        "# TYPE songs_ai_recommendation_duration_seconds histogram\n"
        'songs_ai_recommendation_duration_seconds_bucket{le="+Inf",source="login"} 4\n'
        'songs_ai_recommendation_duration_seconds_count{source="login"} 4\n'
        'songs_ai_recommendation_duration_seconds_sum{source="login"} 2\n'
    )
    figures = read_figures([one % 7, one % 5])
    assert figures.outcomes == {"succeeded": 6}
    assert figures.waiting == {"main": 7}
    assert (figures.retrying, figures.mean_s, figures.n_processes) == (3, 0.5, 2)


# --- songs ---


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=30))
def test_a_title_is_shown_as_it_is_whatever_it_holds(title: str) -> None:
    rendered = MarkdownIt().renderInline(plain(title))
    unescaped = (
        rendered.replace("\u2060", "")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", '"')
        .replace("&amp;", "&")
    )
    assert unescaped.split() == title.split()


@pytest.mark.parametrize("text", ["===", "a\n===", "a\n\n# b", "1. one", "    code"])
def test_a_title_never_becomes_another_block(text: str) -> None:
    assert MarkdownIt().render(f"first  \n{plain(text)}").count("<p>") == 1
    assert "<h" not in MarkdownIt().render(f"first  \n{plain(text)}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("www.example.com", "www|.example.com"),
        ("http://example.com", "http:|//example.com"),
        ("me@example.com", "me@|example.com"),
        (":material/home: :smile:", ":|material/home: :|smile:"),
        ("a -> b -- c <= d", "a -|> b -|- c <|= d"),
        ("Re:Zero - 3:15, WWW", "Re:Zero - 3:15, WWW"),
    ],
)
def test_no_title_becomes_a_link_a_picture_or_an_arrow(text: str, shown: str) -> None:
    """By what a browser was seen to make of it: Streamlit looks for these in the text, behind any backslash."""
    assert plain(text).replace("\\", "").replace("\u2060", "|") == shown


def test_a_song_is_called_what_readers_of_the_language_call_it() -> None:
    assert named(song(), "ko") == "헤일로 — 비욘세"
    assert named(song(), "ja") == "Halo — Beyoncé"
    assert named(song(creator=None, creatorLocal=None, titles={}), "en") == "1"
    assert headline(song(titles={"en": "*NSYNC*"}), "en") == r"**\*NSYNC\*** · Beyoncé"


def test_the_evidence_names_what_found_a_song_of_either_kind_of_list() -> None:
    at_once = {"item": song(), "score": 61.6, "evidence": {"sources": ["content", "same_creator"]}}
    kept = {"item": song(), "score": 61.6, "criteria": ["genre:pop", "source:content", "source:same_creator"]}
    for recommended in (at_once, kept):
        assert evidence_line(cast("Recommended", recommended), EN) == ("score 62 · pop · found by content, same artist")


@pytest.mark.parametrize(
    ("item_id", "place", "before", "said"),
    [(5, 0, [], ""), (5, 0, [1, 2], "new"), (2, 1, [1, 2], ""), (2, 0, [1, 2], "▲ 1"), (1, 1, [1, 2], "▼ 1")],
)
def test_what_became_of_a_songs_place_is_told(item_id: int, place: int, before: list[int], said: str) -> None:
    assert moved(item_id, place, before, EN) == said


# --- taste ---


def liked(since: str | None, *genres: str) -> Liked:
    return cast("Liked", {"item": song(genres=list(genres)), "weight": 1.0, "since": since})


def test_the_taste_is_that_of_all_likes_so_far() -> None:
    likes = [liked("2026-01-03T09:00:00Z", "jazz"), liked("2026-01-01T09:00:00Z", "pop"), liked(None, "metal")]
    assert taste_over_time(likes, "other") == [
        {"when": "2026-01-01", "name": "pop", "share": 1.0},
        {"when": "2026-01-01", "name": "jazz", "share": 0.0},
        {"when": "2026-01-03", "name": "pop", "share": 0.5},
        {"when": "2026-01-03", "name": "jazz", "share": 0.5},
    ]
    assert genre_counts(likes) == [("jazz", 1), ("pop", 1), ("metal", 1)]


@given(st.lists(st.tuples(st.dates(), st.lists(st.sampled_from("abcdefghij"), max_size=3)), max_size=120))
def test_the_shares_of_a_date_add_up_to_a_whole(given_likes: list[tuple[Any, list[str]]]) -> None:
    rows = taste_over_time([liked(f"{day}T00:00:00Z", *genres) for day, genres in given_likes], "other")
    whole: dict[object, float] = {}
    for row in rows:
        whole[row["when"]] = whole.get(row["when"], 0.0) + float(str(row["share"]))
    assert all(math.isclose(share, 1.0) for share in whole.values())
    assert len({row["name"] for row in rows}) <= 8


# --- drawings ---


def test_a_radar_has_a_closed_polygon_for_each_shape() -> None:
    spec = cast("dict[str, Any]", radar({"mine": {"energy": 0.5, "valence": 1.0, "tempo": 0.0}}, {
        "energy": "energy", "valence": "brightness", "tempo": "tempo",
    }))  # fmt: skip
    corners = spec["layer"][1]["data"]["values"]
    assert (corners[0]["x"], corners[0]["y"]) == (0.0, 0.5)
    assert (corners[0]["x"], corners[0]["y"]) == (corners[-1]["x"], corners[-1]["y"])
    assert [corner["feature"] for corner in corners] == ["energy", "brightness", "tempo", "energy"]


def test_only_features_that_all_songs_have_are_compared() -> None:
    one = song(features={"energy": 0.2, "tempo": 125.0, "duration_ms": 1.0})
    other = song(features={"tempo": 500.0, "energy": 0.6, "valence": 0.1})
    assert shown_features([one, other]) == ["energy", "tempo"]
    assert shown_features([]) == []
    assert mean_features([one, other], ["energy", "tempo"]) == {"energy": pytest.approx(0.4), "tempo": 0.75}


@given(st.sampled_from(["energy", "tempo", "loudness"]), st.floats(allow_nan=False))
def test_every_feature_is_drawn_within_its_axis(name: str, value: float) -> None:
    assert 0.0 <= on_scale(name, value) <= 1.0


def test_genres_without_a_colour_of_their_own_are_drawn_as_others() -> None:
    dot = {"song": "Halo", "genre": "polka", "x": 0.0, "y": 0.0}
    titles = {"song": "노래", "genre": "장르"}
    spec = cast("dict[str, Any]", embedding_map([dot], ["pop"], other="other", titles=titles))
    assert spec["data"]["values"][0]["colour"] == "other"
    assert spec["encoding"]["tooltip"] == [{"field": "song", "title": "노래"}, {"field": "genre", "title": "장르"}]
    assert spec["encoding"]["color"]["scale"]["domain"] == ["pop", "other"]


def test_names_stand_in_rows_and_titles_and_never_in_the_paths_of_fields() -> None:
    spec = cast("dict[str, Any]", bars([("a.b[c]", 2)], name="Popularity (0.5)", value="Songs"))
    assert spec["data"]["values"] == [{"name": "a.b[c]", "value": 2}]
    assert {each["field"] for each in spec["encoding"]["tooltip"]} == {"name", "value"}


def test_counts_begin_at_nothing_and_have_an_axis_where_all_are_nothing() -> None:
    rows = [{"when": "2026-01-01T00:00:00Z", "name": "Waiting", "value": 0}]
    assert cast("dict[str, Any]", lines(rows, value="jobs"))["encoding"]["y"]["scale"] == {"domain": [0, 1.0]}
    of_versions = cast("dict[str, Any]", lines(rows, value="value", of_versions=True))
    assert of_versions["encoding"]["x"]["type"] == "nominal"


def test_shares_are_stacked_to_a_whole() -> None:
    rows = [{"when": "2026-01-01", "name": "pop", "share": 0.25}]
    spec = cast("dict[str, Any]", shares_over_time(rows, share="share of likes"))
    assert spec["data"]["values"][0]["told"] == "pop: 25% (2026-01-01)"
    assert (spec["encoding"]["y"]["stack"], spec["encoding"]["y"]["title"]) == ("normalize", "share of likes")

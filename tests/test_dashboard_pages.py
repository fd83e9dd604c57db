"""The dashboard's pages, run by Streamlit's own test bench over a real API: what they show, and what clicks do."""

import asyncio
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from dashboard.address import N_WISH
from dashboard.api_client import Api, ApiProblem, Trouble
from dashboard.shapes import Item, SeedsAnswer
from dashboard.songs import named, plain
from dashboard.texts import LANGUAGES, Texts
from dashboard.views.workers_list import Asked
from dashboard.visitor import N_DISLIKED, N_NEWEST_LIKES, N_SEEDS, Verdict, Visitor
from tests.support.dashboard_site import (
    N_SONGS,
    SCRIPT_TIMEOUT_S,
    DashboardSite,
    dashboard_site,
    labelled,
    open_page,
    told,
)
from tests.support.private_servers import free_port
from tests.support.waiting import until

EN = Texts("en")
PAGES = ("try_it", "members", "catalogue", "quality", "operations")


@pytest.fixture(autouse=True)
def _streamlit_leaves_no_trace() -> Iterator[None]:
    """It puts its script in place of ``__main__``, which processes that start later run, and keeps logs to itself."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
    for name in ("uvicorn", "uvicorn.access", "uvicorn.asgi", "uvicorn.error", "websockets"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DashboardSite]:
    directory: Path = tmp_path_factory.mktemp("dashboard")
    async with dashboard_site(directory) as made:

        async def takes_jobs() -> bool:
            return (await asyncio.to_thread(made.api.health))["status"] != "unavailable"

        await until(takes_jobs)  # what it says of itself is some seconds old
        yield made


async def clicked(page: AppTest, label: str, place: int = 0) -> AppTest:
    button = labelled(page, label)[place]
    return await asyncio.to_thread(lambda: button.click().run())


async def typed(page: AppTest, key: str, text: str) -> AppTest:
    """As somebody types it into that input, and presses its button."""
    page.text_input(key=key).set_value(text)
    return await clicked(page, EN("try.send_wish" if key == "wish" else "try.find"))


@pytest.mark.parametrize(("name", "language"), list(zip(PAGES, cycle(LANGUAGES), strict=False)))
async def test_every_page_opens_in_its_language(site: DashboardSite, name: str, language: str) -> None:
    page = await site.page(name, language)
    assert not page.exception
    assert not page.error
    title = "try" if name == "try_it" else name
    assert page.title[0].value == Texts(language)(f"{title}.title")


@pytest.mark.parametrize("name", PAGES)
async def test_without_an_api_a_page_says_what_to_do(name: str) -> None:
    with closing(Api(f"http://127.0.0.1:{free_port()}")) as nobody:
        page = await asyncio.to_thread(open_page, name, nobody)
    assert not page.exception
    assert EN("problem.unreachable") in page.error[0].value
    assert labelled(page, EN("problem.again"))


# --- try it ---


async def five_chosen(site: DashboardSite) -> AppTest:
    return await clicked(await site.page("try_it"), EN("try.five_for_me"))


def listed(page: AppTest) -> list[int]:
    """The ids of the recommended songs, in their order."""
    return [int(str(button.key)[5:]) for button in page.button if str(button.key).startswith("like-")]


def visitor_of(page: AppTest) -> Visitor:
    visitor: Visitor = page.session_state["visitor"]
    return visitor


async def pressed(page: AppTest, key: str) -> AppTest:
    return await asyncio.to_thread(lambda: page.button(key=key).click().run())


async def likes_and_refusals(site: DashboardSite, page: AppTest) -> tuple[set[int], set[int]]:
    """As the worker knows them."""
    member = await asyncio.to_thread(site.api.member, visitor_of(page).member_id)
    return {each["item"]["itemId"] for each in member["likes"]}, {item["itemId"] for item in member["disliked"]}


async def taken_in(site: DashboardSite, page: AppTest, likes: set[int], refusals: set[int]) -> None:
    """Wait until the worker knows these, and no others."""

    async def is_known() -> bool:
        return await likes_and_refusals(site, page) == (likes, refusals)

    await until(is_known, within_s=20)


async def test_songs_are_found_by_name_and_chosen(site: DashboardSite) -> None:
    page = await site.page("try_it")
    item = (await asyncio.to_thread(site.api.catalogue))["popular"][0]
    title = next(iter(item["titles"].values()))
    page = await typed(page, "asked", title)
    button = page.button(key=f"add-{item['itemId']}")
    page = await asyncio.to_thread(lambda: button.click().run())
    assert EN("try.yours", n=1) in told(page)
    assert EN("try.choose_more", n=2) in told(page)
    page = await clicked(page, EN("try.remove"))
    assert EN("try.choose_more", n=3) in told(page)


async def test_what_is_typed_is_asked_for_by_its_button_and_not_by_leaving_the_input(site: DashboardSite) -> None:
    page = await site.page("try_it")
    page = await asyncio.to_thread(lambda: page.text_input(key="asked").set_value("qqqxxz").run())
    assert "qqqxxz" not in told(page)
    page = await typed(page, "asked", "qqqxxz")
    assert EN("try.nothing_found", text="qqqxxz") in told(page)


async def test_what_is_called_like_nothing_is_said_to_be_so(site: DashboardSite) -> None:
    page = await site.page("try_it")
    page = await typed(page, "asked", "*qqqxxz*")
    assert not page.exception
    assert r"“\*qqqxxz\*”" in told(page)


async def test_five_songs_give_a_list_with_reasons_and_a_radar(site: DashboardSite) -> None:
    page = await five_chosen(site)
    assert EN("try.yours", n=5) in told(page)
    assert len(listed(page)) == 10
    assert "found by" in told(page)
    assert EN("song.order") in told(page)
    assert page.get("vega_lite_chart")


async def test_a_dislike_takes_a_song_off_the_next_list_and_says_what_is_new(site: DashboardSite) -> None:
    page = await five_chosen(site)
    before = listed(page)
    page = await clicked(page, EN("try.dislike"))
    after = listed(page)
    assert before[0] not in after
    assert set(after) - set(before)
    assert f"**{EN('song.new')}**" in told(page)


async def test_a_like_counts_as_one_more_chosen_song(site: DashboardSite) -> None:
    page = await five_chosen(site)
    liked = listed(page)[0]
    page = await clicked(page, EN("try.like"))
    assert liked not in listed(page)
    assert EN("try.yours", n=5) in told(page)


async def test_each_like_counts_at_once_also_beyond_ten_songs(site: DashboardSite) -> None:
    page = await five_chosen(site)
    for _ in range(6):
        liked = listed(page)[0]
        page = await clicked(page, EN("try.like"))
        assert not page.exception
        assert not page.error
        assert liked not in listed(page)


async def test_reactions_reach_the_worker_which_makes_a_list_of_them(site: DashboardSite) -> None:
    page = await five_chosen(site)
    refused = listed(page)[0]
    page = await clicked(page, EN("try.dislike"))
    visitor = visitor_of(page).member_id

    async def has_a_list() -> bool:
        return (await asyncio.to_thread(site.api.member, visitor))["newest"] is not None

    await until(has_a_list, within_s=20)
    member = await asyncio.to_thread(site.api.member, visitor)
    assert [item["itemId"] for item in member["disliked"]] == [refused]
    assert len(member["likes"]) == 5
    page = await asyncio.to_thread(page.run)
    assert EN("try.waiting") not in told(page)


async def test_a_wish_outlives_its_input(site: DashboardSite) -> None:
    page = await clicked(await site.page("try_it"), EN("try.five_for_me"))
    page = await typed(page, "wish", "jazz")
    for item in visitor_of(page).chosen[:3]:
        page = await pressed(page, f"drop-{item['itemId']}")
    assert "wish" not in [each.key for each in page.text_input]
    page = await clicked(page, EN("try.five_for_me"))
    assert page.text_input(key="wish").value == "jazz"
    assert EN("source.wish") in told(page)


async def succeeded(site: DashboardSite, page: AppTest) -> AppTest:
    """The page once the job that it asked for is done."""
    job_id = page.session_state["asked-for"].job_id

    async def ended() -> bool:
        return (await asyncio.to_thread(site.api.job, job_id))["status"] == "succeeded"

    await until(ended, within_s=20)
    return await asyncio.to_thread(page.run)


async def test_the_worker_can_be_asked_and_its_job_is_watched(site: DashboardSite) -> None:
    page = await five_chosen(site)
    page = await typed(page, "wish", "quiet ballads")
    page = await succeeded(site, await clicked(page, EN("try.ask_worker")))
    assert not page.exception
    assert "1. **" in told(page)


async def test_a_list_that_was_asked_for_stays_until_the_next_reaction(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reactions before it bring about: that knows no wish, and is in another language."""
    page = await five_chosen(site)
    page = await pressed(page, f"like-{listed(page)[0]}")
    page = await typed(page, "wish", "jazz")
    page = await succeeded(site, await clicked(page, EN("try.ask_worker")))
    asked_for = workers_list(page)
    assert any("wish" in line for line in asked_for)
    item = (await asyncio.to_thread(site.api.catalogue))["popular"][0]
    brought_about = {"items": [{"item": item, "reason": "brought about"}]}
    monkeypatch.setattr(Api, "member", lambda *_: {"newest": brought_about})
    page = await asyncio.to_thread(page.run)
    assert workers_list(page) == asked_for
    page = await pressed(page, f"dislike-{listed(page)[0]}")
    assert len(workers_list(page)) == 1
    assert "brought about" in workers_list(page)[0]


def workers_list(page: AppTest) -> list[str]:
    return [str(each.value) for each in page.markdown if re.match(r"\d+\. ", str(each.value))]


async def test_what_left_the_catalogue_is_left_out_of_the_list(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await clicked(await five_chosen(site), EN("try.ask_worker"))
    find, gone = Api.item, list[int]()

    def item(api: Api, item_id: int) -> Item:
        gone[:] = gone or [item_id]
        if item_id in gone:
            raise ApiProblem(Trouble.NOT_FOUND, "gone")
        return find(api, item_id)

    monkeypatch.setattr(Api, "item", item)
    page = await succeeded(site, page)
    assert not page.error
    assert len(workers_list(page)) == 9


async def test_the_worker_is_asked_for_a_list_of_all_that_is_liked(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    explain = Api.explain

    def overheard(api: Api, item_ids: list[int], **rest: Any) -> str:
        asked.append(item_ids)
        return explain(api, item_ids, **rest)

    monkeypatch.setattr(Api, "explain", overheard)
    page = await five_chosen(site)
    chosen = [item["itemId"] for item in visitor_of(page).chosen]
    likes = []
    for _ in range(2):
        likes.append(listed(page)[0])
        page = await pressed(page, f"like-{likes[-1]}")
    page = await clicked(page, EN("try.ask_worker"))
    assert asked == [[*reversed(likes), *chosen]]
    await taken_in(site, page, {*chosen, *likes}, set())


async def test_a_reaction_is_shown_pressed_and_pressed_again_is_taken_back(site: DashboardSite) -> None:
    page = await five_chosen(site)
    chosen = {item["itemId"] for item in visitor_of(page).chosen}
    before = listed(page)
    first = before[0]
    page = await pressed(page, f"like-{first}")
    second = listed(page)[0]
    page = await pressed(page, f"dislike-{second}")
    assert EN("try.reactions", n=2) in told(page)
    assert [button.label for button in page.button if str(button.key).startswith("said-")] == [
        EN("try.like"), EN("try.disliked"), EN("try.liked"), EN("try.dislike"),
    ]  # fmt: skip
    await taken_in(site, page, {*chosen, first}, {second})
    page = await pressed(page, f"said-like-{first}")
    page = await pressed(page, f"said-dislike-{second}")
    assert EN("try.reactions_lead") not in told(page)
    assert listed(page) == before
    await taken_in(site, page, chosen, set())


async def test_a_reaction_can_become_the_other_one(site: DashboardSite) -> None:
    page = await five_chosen(site)
    chosen = {item["itemId"] for item in visitor_of(page).chosen}
    first = listed(page)[0]
    page = await pressed(page, f"dislike-{first}")
    page = await pressed(page, f"said-like-{first}")
    await taken_in(site, page, {*chosen, first}, set())


async def test_a_song_that_is_removed_after_the_worker_heard_of_it_is_unliked(site: DashboardSite) -> None:
    page = await five_chosen(site)
    removed, *kept = [item["itemId"] for item in visitor_of(page).chosen]
    liked = listed(page)[0]
    page = await pressed(page, f"like-{liked}")
    page = await pressed(page, f"drop-{removed}")
    await taken_in(site, page, {*kept, liked}, set())


async def test_what_is_liked_stands_for_songs_that_are_removed(site: DashboardSite) -> None:
    page = await five_chosen(site)
    page = await pressed(page, f"like-{listed(page)[0]}")
    for item in visitor_of(page).chosen[:3]:
        page = await pressed(page, f"drop-{item['itemId']}")
    assert len(listed(page)) == 10
    page = await pressed(page, f"drop-{visitor_of(page).chosen[0]['itemId']}")
    assert EN("try.choose_more", n=1) in told(page)
    assert EN("try.reactions", n=1) in told(page)


async def test_beyond_ten_songs_the_newest_likes_count_and_the_page_says_so(site: DashboardSite) -> None:
    found = [each["item"] for each in await asyncio.to_thread(site.api.search, "a", 40)]
    visitor = Visitor(-1_234_567)
    visitor.choose(found)
    page = await site.page("try_it", visitor=visitor)
    assert EN("try.full", n=N_SEEDS) in told(page)
    before = listed(page)
    for n in range(1, N_NEWEST_LIKES + 3):
        page = await pressed(page, f"like-{listed(page)[-1]}")
        assert EN("try.counted", n=n, seeds=N_SEEDS, likes=N_NEWEST_LIKES) in told(page)
        spoken_of = {item["itemId"] for item in (*visitor.chosen, *visitor.liked)}
        assert not set(listed(page)) & spoken_of
        assert len(listed(page)) == 10
    assert len(set(listed(page)) - set(before)) > N_NEWEST_LIKES


async def test_where_no_list_can_be_made_what_was_said_can_be_taken_back_all_the_same(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a liked song has left the catalogue since: the API refuses all of it."""
    page = await five_chosen(site)
    gone = listed(page)[0]
    page = await pressed(page, f"like-{gone}")
    find = Api.from_seeds

    def from_seeds(api: Api, item_ids: list[int], **rest: Any) -> SeedsAnswer:
        if gone in item_ids:
            raise ApiProblem(Trouble.REFUSED, "there is no such item")
        return find(api, item_ids, **rest)

    monkeypatch.setattr(Api, "from_seeds", from_seeds)
    page = await asyncio.to_thread(page.run)
    assert EN("problem.refused") in page.error[0].value
    page = await pressed(page, f"said-like-{gone}")
    assert not page.error
    assert len(listed(page)) == 10


async def test_more_refusals_than_the_api_takes_do_no_harm(site: DashboardSite) -> None:
    popular = (await asyncio.to_thread(site.api.catalogue))["popular"]
    visitor = Visitor(-1_234_568)
    visitor.choose(popular[:3])
    for item_id in range(10**9, 10**9 + N_DISLIKED + 30):
        visitor.react(Verdict.DISLIKE, {**popular[0], "itemId": item_id})
    page = await site.page("try_it", visitor=visitor)
    assert not page.error
    assert len(listed(page)) == 10


async def test_without_features_in_common_the_page_says_why_there_is_no_shape(site: DashboardSite) -> None:
    popular = (await asyncio.to_thread(site.api.catalogue))["popular"]
    visitor = Visitor(-1_234_569)
    visitor.choose([{**item, "features": {"tempo": 1.0}} for item in popular[:3]])
    page = await site.page("try_it", visitor=visitor)
    assert EN("song.no_shape") in told(page)
    assert not page.get("vega_lite_chart")


async def test_a_reaction_that_the_api_does_not_take_is_told_and_goes_with_the_next(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await five_chosen(site)
    chosen = {item["itemId"] for item in visitor_of(page).chosen}
    refused = listed(page)[0]
    with monkeypatch.context() as broken:
        broken.setattr(Api, "tell", refuse_for_want_of_a_key)
        page = await pressed(page, f"dislike-{refused}")
    assert EN("problem.key") in told(page)
    assert listed(page)
    assert refused not in listed(page)
    liked = listed(page)[0]
    page = await pressed(page, f"like-{liked}")
    assert EN("problem.key") not in told(page)
    await taken_in(site, page, {*chosen, liked}, {refused})


def refuse_for_want_of_a_key(*_: object) -> None:
    raise ApiProblem(Trouble.KEY, "the API key is missing or wrong")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_why_a_job_failed_is_told_as_it_was_written(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    failed = {
        "jobId": "j",
        "status": "failed",
        "progress": 0,
        "error": {"message": "[a](http://b) *c*"},
        "result": None,
    }
    monkeypatch.setattr(Api, "job", lambda *_: failed)
    popular = (await asyncio.to_thread(site.api.catalogue))["popular"]
    visitor = Visitor(-1_234_570)
    visitor.choose(popular[:3])
    page = await site.page("try_it", language, visitor=visitor, **{"asked-for": Asked("j", 0)})
    assert Texts(language)("try.job_failed", reason=plain("[a](http://b) *c*")) in told(page)


# --- members ---


async def test_a_member_is_shown_with_taste_and_likes_and_gets_a_list_on_request(site: DashboardSite) -> None:
    page = await site.page("members")
    member_id = int(str(page.selectbox[0].value))
    assert EN("members.over_time") in told(page)
    assert len(page.get("vega_lite_chart")) == 3
    page = await clicked(page, EN("members.ask"))

    async def has_a_list() -> bool:
        return (await asyncio.to_thread(site.api.member, member_id))["newest"] is not None

    await until(has_a_list, within_s=20)
    page = await asyncio.to_thread(page.run)
    assert "What found these songs" in told(page)
    assert "1. **" in told(page)
    assert EN("song.order") in told(page)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_list_is_asked_for_in_the_language_of_the_page(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    asked: list[dict[str, object]] = []
    answer = Api._answer

    def overheard(api: Api, method: str, path: str, **options: Any) -> httpx.Response:
        if path == "/recommend":
            asked.append(options["json"])
        return answer(api, method, path, **options)

    monkeypatch.setattr(Api, "_answer", overheard)
    page = await clicked(await site.page("members", language), Texts(language)("members.ask"))
    assert not page.error
    assert [body["locale"] for body in asked] == [language]
    member_id = int(str(page.selectbox[0].value))
    of_liked = {"ko": "좋아하시는", "ja": "お好き", "en": "which you like"}[language]

    async def is_in_that_language() -> bool:
        newest = (await asyncio.to_thread(site.api.member, member_id))["newest"]
        return newest is not None and any(of_liked in each["reason"] for each in newest["items"])

    await until(is_in_that_language, within_s=20)


@pytest.mark.parametrize(("locale", "said"), [("ko", "한국어"), ("de", "de"), ("en", None), ("", None)])
async def test_of_a_list_in_another_language_the_page_says_in_which(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch, locale: str, said: str | None
) -> None:
    item = (await asyncio.to_thread(site.api.catalogue))["popular"][0]
    row = {"item": item, "score": 62.0, "type": "similar", "reason": "r", "criteria": []}
    newest = {"items": [row], "generatedDate": "2026-01-31", "provisional": False, "fingerprint": "f", "locale": locale}
    member = {"memberId": 1, "likes": [], "disliked": [], "newest": newest}
    monkeypatch.setattr(Api, "member", lambda *_: member)
    page = await site.page("members", member="1")
    expected = [] if said is None else [EN("members.other_language", language=said)]
    assert [each.value for each in page.info] == expected


@pytest.mark.parametrize(("typed", "said"), [("nobody", "members.no_number"), ("-77", "members.unknown")])
async def test_a_number_that_is_none_or_nobodys_is_told(site: DashboardSite, typed: str, said: str) -> None:
    page = await site.page("members", member=typed)
    assert not page.exception
    assert EN(said, text=typed, member=typed) in told(page)


async def test_a_member_who_only_refused_is_shown_with_what_was_refused(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    popular = (await asyncio.to_thread(site.api.catalogue))["popular"]
    popular[0]["titles"] = {"en": "*NSYNC* [live](http://x)"}
    member = {"memberId": -88, "likes": [], "disliked": popular[:2], "newest": None}
    monkeypatch.setattr(Api, "member", lambda *_: member)
    page = await site.page("members", member="-88")
    assert EN("members.unknown", member=-88) not in told(page)
    for item in popular[:2]:
        assert plain(named(item, "en")) in told(page)


async def test_a_member_whose_likes_have_no_features_is_told_why_there_is_no_shape(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {**(await asyncio.to_thread(site.api.catalogue))["popular"][0], "features": {}}
    liked = {"item": item, "weight": 1.0, "since": None}
    member = {"memberId": -89, "likes": [liked], "disliked": [], "newest": None}
    monkeypatch.setattr(Api, "member", lambda *_: member)
    assert EN("song.no_shape") in told(await site.page("members", member="-89"))


# --- catalogue ---


async def test_the_catalogue_is_counted_and_drawn(site: DashboardSite) -> None:
    page = await site.page("catalogue")
    assert page.metric[0].value == str(N_SONGS)
    assert len(page.get("vega_lite_chart")) == 4


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_map_names_songs_as_readers_of_the_page_do(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr("dashboard.views.catalogue.draw", drawn.append)
    points = (await asyncio.to_thread(site.api.catalogue_map, 1000))["points"]
    await site.page("catalogue", language)
    spec = drawn[0]
    shown = {row["song"] for row in spec["data"]["values"]}
    assert {point["titles"][language] for point in points if language in point["titles"]} <= shown
    if language == "ko":
        artists = {row["artist"] for row in spec["data"]["values"]}
        assert {point["creatorLocal"] for point in points if point["creatorLocal"]} <= artists
    texts = Texts(language)
    titles = [each["title"] for each in spec["encoding"]["tooltip"]]
    assert titles == [texts("song.song"), texts("catalogue.artist"), texts("catalogue.genre")]


async def test_songs_like_a_found_one_are_listed(site: DashboardSite) -> None:
    catalogue = await asyncio.to_thread(site.api.catalogue)
    title = next(iter(catalogue["popular"][0]["titles"].values()))
    page = await site.page("catalogue")
    page = await typed(page, "similar-to", title)
    assert "1. **" in told(page)
    assert " %" in told(page)


# --- quality ---


async def test_without_a_model_the_page_says_how_one_is_fitted(site: DashboardSite) -> None:
    page = await site.page("quality")
    assert "main.py fit" in told(page)


@pytest.mark.parametrize(
    ("fits", "said"), [("missing", "none_missing"), ("under_way", "under_way"), ("", "none"), ("odd", "none")]
)
async def test_without_a_model_a_made_up_site_says_what_is_true_of_it(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch, fits: str, said: str
) -> None:
    monkeypatch.setenv("MADE_UP_FITS", fits)
    page = await opened(site, monkeypatch, "quality")
    assert not page.exception
    assert [each.value for each in page.info] == [EN(f"quality.{said}")]


async def test_versions_that_are_fitted_meanwhile_appear(site: DashboardSite, monkeypatch: pytest.MonkeyPatch) -> None:
    version = {
        "kind": "collaborative", "version": "v1", "createdAt": "2026-01-01T00:00:00Z", "active": True,
        "previous": False, "nBytes": 1, "metrics": {"ndcg": 0.25}, "dataUntil": None,
    }  # fmt: skip
    later = [{**version, "version": f"v{n}", "active": False} for n in (2, 3)]
    answers = iter([[], [version], [version], [version, *later]])
    kept: list[object] = []

    def models(_: Api) -> dict[str, object]:
        kept[:] = next(answers, kept)
        return {"versions": list(kept), "promotions": []}

    monkeypatch.setenv("MADE_UP_FITS", "under_way")
    monkeypatch.setattr(Api, "models", models)
    page = await opened(site, monkeypatch, "quality")
    assert EN("quality.versions", n=3) in told(page)
    assert EN("quality.under_way") not in told(page)
    assert page.get("vega_lite_chart")


async def test_versions_are_tabled_and_their_figures_drawn(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = {
        "kind": "collaborative", "version": "v1", "createdAt": "2026-01-01T00:00:00Z", "active": False,
        "previous": True, "nBytes": 1, "metrics": {"ndcg": 0.25, "recall": 0.2}, "dataUntil": None,
    }  # fmt: skip
    newer = {**version, "version": "v2", "createdAt": "2026-01-02T00:00:00Z", "active": True, "previous": False}
    promotion = {
        "kind": "collaborative", "version": "v2", "replaced": "v1", "cause": "fit", "reason": "better",
        "promotedAt": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    monkeypatch.setattr(Api, "models", lambda _: {"versions": [newer, version], "promotions": [promotion]})
    page = await site.page("quality")
    assert EN("quality.in_force", version="v2") in told(page)
    assert len(page.get("vega_lite_chart")) == 1
    assert page.dataframe[0].value["ndcg"].tolist() == [0.25, 0.25]
    assert page.dataframe[1].value.iloc[0, 1] == "v2"


# --- operations ---


async def test_operations_tell_health_queues_and_outcomes(site: DashboardSite) -> None:
    page = await site.page("operations")
    assert plain(EN("operations.degraded")) in told(page)  # results live in this process alone
    assert page.metric[0].label == EN("operations.queue")
    assert EN("operations.whose", n=1, seconds=5) in told(page)


async def test_dead_letters_are_listed_and_replayed(site: DashboardSite) -> None:
    for job_id in ("dead-1", "dead-2"):
        await site.bury(job_id)
    page = await site.page("operations")
    assert EN("operations.n_dead", shown=2, n=2) in told(page)
    page = await asyncio.to_thread(lambda: page.multiselect(key="letters").select("dead-1").run())
    page = await clicked(page, EN("operations.replay"))
    assert [each.value for each in page.success] == [f"**1** · {plain(EN('fate.replayed'))}"]
    assert EN("operations.n_dead", shown=1, n=1) in told(page)
    page = await clicked(page, EN("operations.replay_all"))
    assert EN("operations.none_dead") in told(page)

    async def both_ran() -> bool:
        jobs = [await asyncio.to_thread(site.api.job, job_id) for job_id in ("dead-1", "dead-2")]
        return {job["status"] for job in jobs} == {"succeeded"}

    await until(both_ran, within_s=20)


async def test_what_became_of_a_replay_is_told_by_how_many_and_how_well(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = {
        "memberId": 1, "reason": "attempts_used_up", "code": "BROKEN", "error": "no answer", "nTries": 4,
        "nReplays": 0, "ageS": 60.0,
    }  # fmt: skip
    fates = {"a": "replayed", "b": "replayed", "c": "no_job", "d": "succeeded_since", "e": "*odd*"}
    letters = [{**letter, "letterId": letter_id} for letter_id in (*fates, "gone")]
    monkeypatch.setattr(Api, "dead_letters", lambda *_: {"letters": letters, "n": 6})
    monkeypatch.setattr(Api, "replay", lambda *_: fates)
    page = await clicked(await site.page("operations"), EN("operations.replay_all"))
    assert [each.value for each in page.success] == [f"**2** · {plain(EN('fate.replayed'))}"]
    assert f"**1** · {plain(EN('fate.succeeded_since'))}" in [each.value for each in page.info]
    warned = [each.value for each in page.warning]
    for fate in (EN("fate.no_job"), EN("fate.not_found"), "*odd*"):
        assert f"**1** · {plain(fate)}" in warned


async def test_a_replay_that_finds_nothing_says_so(site: DashboardSite, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.bury("dead-3")
    page = await site.page("operations")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(Api, "replay", lambda *_: {})
        page = await clicked(page, EN("operations.replay_all"))
    assert f"**1** · {plain(EN('fate.not_found'))}" in [each.value for each in page.warning]
    await asyncio.to_thread(site.api.replay, ["dead-3"])


_METRICS = """\
# TYPE songs_ai_llm_spend_today_usd gauge
songs_ai_llm_spend_today_usd {spend}
# TYPE songs_ai_llm_calls_total counter
songs_ai_llm_calls_total{{outcome="ok"}} {calls}
# TYPE songs_ai_llm_cost_usd_total counter
songs_ai_llm_cost_usd_total{{model="gpt_4o_mini*"}} {spend}
"""


@pytest.mark.parametrize(
    ("spend", "calls", "said", "figures"),
    [
        (0, 0, "operations.no_llm", []),
        (0.5, 0, "operations.llm_elsewhere", ["$0.5000"]),
        (0.5, 3, None, ["$0.5000"]),
    ],
)
async def test_of_costs_the_page_says_what_is_true_of_these_processes_and_of_the_day(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch, spend: float, calls: int, said: str | None, figures: list[str]
) -> None:
    monkeypatch.setattr(Api, "metrics", lambda _: [_METRICS.format(spend=spend, calls=calls)])
    page = await site.page("operations")
    texts = {EN(key) for key in ("operations.no_llm", "operations.llm_elsewhere")}
    assert {each.value for each in page.info} & texts == ({EN(said)} if said else set())
    assert [each.value for each in page.metric if each.label == EN("operations.today")] == figures
    assert ("gpt\\_4o\\_mini\\*" in [each.label for each in page.metric]) == bool(figures)


async def test_what_the_api_says_of_health_is_shown_as_it_was_written(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = {"status": "*odd*", "reason": "see [here](http://x) `now`", "latency_ms": 1.0}
    monkeypatch.setattr(Api, "health", lambda _: {"status": "_odd_", "checks": {"my_db*": check}})
    page = await site.page("operations")
    assert page.error[0].value == plain("_odd_")
    assert f"**{plain('my_db*')}** {plain('*odd*')} — {plain('see [here](http://x) `now`')}" in told(page)


async def test_a_health_that_only_a_proxy_tells_is_a_told_problem(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = httpx.Response(503, json={"title": "Service Unavailable", "detail": "no upstream"})
    asked = Api._asked
    monkeypatch.setattr(
        Api, "_asked", lambda api, method, url, **rest: away if "/health" in url else asked(api, method, url, **rest)
    )
    page = await site.page("operations")
    assert not page.exception
    assert EN("problem.busy") in page.error[0].value
    assert "no upstream" in page.error[0].value


@pytest.mark.parametrize(
    "metrics_url", ["http://worker:port/metrics", "{url}/openapi.json", "http://127.0.0.1:{free}/"]
)
async def test_a_wrong_metrics_url_is_told_and_the_rest_of_operations_stands(
    site: DashboardSite, metrics_url: str
) -> None:
    wrong = metrics_url.format(url=site.url, free=free_port())
    with closing(Api(site.url, metrics_url=wrong)) as api:
        page = await asyncio.to_thread(open_page, "operations", api)
    assert not page.exception
    [error] = page.error
    assert EN("problem.metrics") in error.value
    assert f"METRICS_URL={wrong}" in error.value
    assert plain(EN("operations.degraded")) in told(page)
    assert EN("operations.dead_letters") in told(page)


# --- the page as a whole ---

APP = Path(__file__).parents[1] / "dashboard" / "app.py"


async def opened(site: DashboardSite, monkeypatch: pytest.MonkeyPatch, name: str = "try", **address: str) -> AppTest:
    """The whole page, as somebody opens it at that address."""
    monkeypatch.setenv("API_URL", site.url)

    def run() -> AppTest:
        page = AppTest.from_file(str(APP), default_timeout=SCRIPT_TIMEOUT_S)
        page.query_params.update({"lang": "en", **address})
        if name != "try":
            page._page_hash = calc_hash(name)
        return page.run()

    return await asyncio.to_thread(run)


async def ids_of_popular(site: DashboardSite) -> list[int]:
    return [item["itemId"] for item in (await asyncio.to_thread(site.api.catalogue))["popular"]]


def address_of(page: AppTest) -> dict[str, str]:
    """Each value as the one that it is."""
    return {name: value if isinstance(value, str) else value[0] for name, value in page.query_params.items()}


async def test_the_address_follows_what_is_chosen_and_wished(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await opened(site, monkeypatch)
    assert address_of(page) == {"lang": "en"}
    page = await clicked(page, EN("try.five_for_me"))
    chosen = [item["itemId"] for item in visitor_of(page).chosen]
    assert address_of(page) == {"lang": "en", "songs": ",".join(map(str, chosen))}
    page = await typed(page, "wish", "jazz & soul")
    assert address_of(page)["wish"] == "jazz & soul"
    page = await typed(page, "wish", "j" * (N_WISH + 1))
    assert "wish" not in address_of(page)
    page = await pressed(page, f"drop-{chosen[0]}")
    assert address_of(page)["songs"] == ",".join(map(str, chosen[1:]))
    page = await asyncio.to_thread(lambda: page.selectbox(key="language").set_value("ja").run())
    assert address_of(page)["lang"] == "ja"


async def test_an_address_opens_the_list_that_it_names(site: DashboardSite, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = (await ids_of_popular(site))[:3]
    named_by = {"songs": ",".join(map(str, ids)), "wish": "jazz"}
    page = await opened(site, monkeypatch, **named_by)
    assert [item["itemId"] for item in visitor_of(page).chosen] == ids
    assert page.text_input(key="wish").value == "jazz"
    assert len(listed(page)) == 10
    assert not page.warning
    assert address_of(page) == {"lang": "en", **named_by}


async def test_of_an_address_what_is_no_song_is_left_out_and_told(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, *_ = await ids_of_popular(site)
    bad = ["*x*", "-1", "٣", "99999999", "9" * 19, "9" * 400]
    page = await opened(site, monkeypatch, songs=",".join([*bad, str(known), "", str(known)]))
    assert not page.exception
    assert [item["itemId"] for item in visitor_of(page).chosen] == [known]
    [warning] = page.warning
    assert warning.value == EN("try.bad_address", text=plain(", ".join([*bad[:-1], "9" * 20])))
    page = await asyncio.to_thread(page.run)
    assert not page.warning
    assert address_of(page)["songs"] == str(known)


async def test_an_address_of_too_many_songs_gives_the_first_ten(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [each["item"]["itemId"] for each in await asyncio.to_thread(site.api.search, "a", 12)]
    page = await opened(site, monkeypatch, songs=",".join(map(str, ids)))
    assert [item["itemId"] for item in visitor_of(page).chosen] == ids[:N_SEEDS]
    assert [each.value for each in page.warning] == [EN("try.too_many_in_address", n=N_SEEDS)]


async def test_where_the_api_is_away_the_songs_of_the_address_are_kept_for_the_next_try(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = (await ids_of_popular(site))[:3]

    def away(*_: object) -> Item:
        raise ApiProblem(Trouble.BUSY, "not yet")

    with monkeypatch.context() as broken:
        broken.setattr(Api, "item", away)
        page = await opened(site, monkeypatch, songs=",".join(map(str, ids)))
        assert EN("problem.busy") in page.error[0].value
        assert address_of(page)["songs"] == ",".join(map(str, ids))
    page = await clicked(page, EN("problem.again"))
    assert [item["itemId"] for item in visitor_of(page).chosen] == ids


@pytest.mark.parametrize("url", ["http://host:port", "host:8000"])
async def test_an_api_url_that_is_no_address_is_told_on_the_page(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("API_URL", url)
    page = await asyncio.to_thread(lambda: AppTest.from_file(str(APP), default_timeout=SCRIPT_TIMEOUT_S).run())
    assert not page.exception
    assert EN("problem.address") in page.error[0].value
    assert f"API_URL={url}" in page.error[0].value

"""The dashboard's pages, run by Streamlit's own test bench over a real API: what they show, and what clicks do."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.api_client import Api
from dashboard.texts import LANGUAGES, Texts
from tests.support.dashboard_site import N_SONGS, DashboardSite, dashboard_site, labelled, open_page, told
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
        yield made


async def clicked(page: AppTest, label: str, place: int = 0) -> AppTest:
    button = labelled(page, label)[place]
    return await asyncio.to_thread(lambda: button.click().run())


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
    return [int(str(button.key).partition("-")[2]) for button in labelled(page, EN("try.like"))]


async def test_songs_are_found_by_name_and_chosen(site: DashboardSite) -> None:
    page = await site.page("try_it")
    item = (await asyncio.to_thread(site.api.catalogue))["popular"][0]
    title = next(iter(item["titles"].values()))
    page = await asyncio.to_thread(lambda: page.text_input(key="asked").set_value(title).run())
    button = page.button(key=f"add-{item['itemId']}")
    page = await asyncio.to_thread(lambda: button.click().run())
    assert EN("try.yours", n=1) in told(page)
    assert EN("try.choose_more", n=2) in told(page)
    page = await clicked(page, EN("try.remove"))
    assert EN("try.choose_more", n=3) in told(page)


async def test_what_is_called_like_nothing_is_said_to_be_so(site: DashboardSite) -> None:
    page = await site.page("try_it")
    page = await asyncio.to_thread(lambda: page.text_input(key="asked").set_value("*qqqxxz*").run())
    assert not page.exception
    assert r"“\*qqqxxz\*”" in told(page)


async def test_five_songs_give_a_list_with_reasons_and_a_radar(site: DashboardSite) -> None:
    page = await five_chosen(site)
    assert EN("try.yours", n=5) in told(page)
    assert len(listed(page)) == 10
    assert "found by" in told(page)
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
    visitor = page.session_state["visitor"]

    async def has_a_list() -> bool:
        return (await asyncio.to_thread(site.api.member, visitor))["newest"] is not None

    await until(has_a_list, within_s=20)
    member = await asyncio.to_thread(site.api.member, visitor)
    assert [item["itemId"] for item in member["disliked"]] == [refused]
    assert len(member["likes"]) == 5
    page = await asyncio.to_thread(page.run)
    assert EN("try.waiting") not in told(page)


async def test_the_worker_can_be_asked_and_its_job_is_watched(site: DashboardSite) -> None:
    page = await five_chosen(site)
    page = await asyncio.to_thread(lambda: page.text_input(key="wish").set_value("quiet ballads").run())
    page = await clicked(page, EN("try.ask_worker"))
    job_id = page.session_state["job"]

    async def ended() -> bool:
        return (await asyncio.to_thread(site.api.job, job_id))["status"] == "succeeded"

    await until(ended, within_s=20)
    page = await asyncio.to_thread(page.run)
    assert not page.exception
    assert "1. **" in told(page)


async def test_a_reaction_that_the_api_does_not_take_is_told_and_the_list_goes_on(
    site: DashboardSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await five_chosen(site)
    refused = listed(page)[0]
    monkeypatch.setattr(Api, "tell", refuse_for_want_of_a_key)
    page = await clicked(page, EN("try.dislike"))
    assert EN("problem.key") in told(page)
    assert listed(page)
    assert refused not in listed(page)


def refuse_for_want_of_a_key(*_: object) -> None:
    from dashboard.api_client import ApiProblem, Trouble  # noqa: PLC0415

    raise ApiProblem(Trouble.KEY, "the API key is missing or wrong")


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


@pytest.mark.parametrize(("typed", "said"), [("nobody", "members.no_number"), ("-77", "members.unknown")])
async def test_a_number_that_is_none_or_nobodys_is_told(site: DashboardSite, typed: str, said: str) -> None:
    page = await site.page("members", member=typed)
    assert not page.exception
    assert EN(said, text=typed, member=typed) in told(page)


# --- catalogue ---


async def test_the_catalogue_is_counted_and_drawn(site: DashboardSite) -> None:
    page = await site.page("catalogue")
    assert page.metric[0].value == str(N_SONGS)
    assert len(page.get("vega_lite_chart")) == 4


async def test_songs_like_a_found_one_are_listed(site: DashboardSite) -> None:
    catalogue = await asyncio.to_thread(site.api.catalogue)
    title = next(iter(catalogue["popular"][0]["titles"].values()))
    page = await site.page("catalogue")
    page = await asyncio.to_thread(lambda: page.text_input(key="similar-to").set_value(title).run())
    assert "1. **" in told(page)
    assert " %" in told(page)


# --- quality ---


async def test_without_a_model_the_page_says_how_one_is_fitted(site: DashboardSite) -> None:
    page = await site.page("quality")
    assert "main.py fit" in told(page)


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
    assert EN("operations.degraded") in told(page)  # results live in this process alone
    assert page.metric[0].label == EN("operations.queue")
    assert EN("operations.whose", n=1, seconds=5) in told(page)


async def test_dead_letters_are_listed_and_replayed(site: DashboardSite) -> None:
    for job_id in ("dead-1", "dead-2"):
        await site.bury(job_id)
    page = await site.page("operations")
    assert EN("operations.n_dead", shown=2, n=2) in told(page)
    page = await asyncio.to_thread(lambda: page.multiselect(key="letters").select("dead-1").run())
    page = await clicked(page, EN("operations.replay"))
    assert EN("fate.replayed") in told(page)
    assert EN("operations.n_dead", shown=1, n=1) in told(page)
    page = await clicked(page, EN("operations.replay_all"))
    assert EN("operations.none_dead") in told(page)

    async def both_ran() -> bool:
        jobs = [await asyncio.to_thread(site.api.job, job_id) for job_id in ("dead-1", "dead-2")]
        return {job["status"] for job in jobs} == {"succeeded"}

    await until(both_ran, within_s=20)

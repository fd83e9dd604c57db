"""A fitted model in the store of models, and what jobs of a whole worker make of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from pydantic import SecretStr

from config.llm_strategies import StrategyTable
from config.settings import Settings
from core.fitted_collaborative import MODEL_KIND, FittedCollaborative
from core.submission import submit
from models.job import Job, JobStatus
from services.model_store import SqlModelStore
from tests.support.catalogue import create_all_tables, insert_songs
from tests.support.fitted_models import going_together
from tests.support.waiting import until
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.parts import Parts, embedded, open_parts

N_SONGS = 240
LIKED = (1, 2, 3)
FIRST_FINDS, NEXT_FINDS = range(160, 170), range(180, 190)
NOBODYS = 10**9


def song(song_id: int) -> Mapping[str, object]:
    """The first half is far from the second by all that content says but the genre."""
    words, mood = ("moon night river", "calm") if song_id <= N_SONGS // 2 else ("fire steel thunder", "loud")
    return {
        "song_id": song_id,
        "title_en": f"{words} {song_id}",
        "artist": f"{words} band {song_id}",
        "genre": "pop",
        "mood": mood,
    }


def model_of(finds: range) -> FittedCollaborative:
    """Who likes any of ``LIKED`` likes ``finds`` too, and a song that is long gone."""
    others = dict.fromkeys(range(1, N_SONGS + 1), 1)
    return going_together({**others, **dict.fromkeys((*LIKED, *finds, NOBODYS), 0)})


async def put_in_force(parts: Parts, fitted: FittedCollaborative) -> str:
    store = SqlModelStore(parts.database, parts.clock)
    await store.save(MODEL_KIND, fitted.version, fitted.to_bytes(), {})
    await store.activate(MODEL_KIND, fitted.version)
    return fitted.version


async def recommended(parts: Parts) -> dict[str, Any]:
    """The result of a job of a member who likes ``LIKED``."""
    job = Job(job_id=str(uuid4()), member_id=7, favorite_item_ids=LIKED, locale="en")
    await submit(job, results=parts.results, publisher=parts.publisher)

    async def has_succeeded() -> bool:
        view = await parts.results.job(job.job_id)
        return view is not None and view.status is JobStatus.SUCCEEDED

    await until(has_succeeded, within_s=20)
    view = await parts.results.job(job.job_id)
    assert view is not None
    assert view.result is not None
    return dict(orjson.loads(view.result))


def types(result: Mapping[str, Any]) -> dict[int, str]:
    return {each["song_id"]: each["recommendation_type"] for each in result["candidates"]}


SETTINGS = Settings(
    _env_file=None,
    openai_api_key=SecretStr(""),
    llm_strategies=StrategyTable.model_validate({"default": {"n_candidates": 10, "n_explained": 10}}),
    default_top_k=20,
    discovery_share=0,
    index_refresh_s=0.05,
)


@asynccontextmanager
async def a_site(settings: Settings) -> AsyncIterator[Parts]:
    """Everything but the database in this process, with a catalogue and no model."""
    url = settings.database_url.get_secret_value()
    await asyncio.to_thread(create_all_tables, url)
    await asyncio.to_thread(insert_songs, url, *(song(song_id) for song_id in range(1, N_SONGS + 1)))
    async with open_parts(settings) as parts:
        # Embeds the catalogue.
        await parts.index.refresh()
        yield parts


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Parts]:
    async with a_site(embedded(SETTINGS, tmp_path)) as parts:
        yield parts


async def test_a_site_that_never_fitted_recommends_by_content(site: Parts) -> None:
    await prepare(site)
    async with running_consumers(site):
        result = await recommended(site)
    assert result["versions"]["collaborative"] == "none"
    assert len(types(result)) == 20
    assert max(types(result)) <= N_SONGS // 2
    assert "collaborative" not in types(result).values()


async def test_what_others_like_is_recommended_and_labelled_as_that(site: Parts) -> None:
    version = await put_in_force(site, model_of(FIRST_FINDS))
    await prepare(site)
    async with running_consumers(site):
        result = await recommended(site)
    assert result["versions"]["collaborative"] == version
    finds = {song_id: kind for song_id, kind in types(result).items() if song_id in FIRST_FINDS}
    assert len(finds) >= 5
    assert set(finds.values()) == {"collaborative"}
    assert any(song_id <= N_SONGS // 2 for song_id in types(result))
    assert NOBODYS not in types(result)
    assert all(each["reason"] and 0 <= each["match_score"] <= 100 for each in result["candidates"])


async def test_a_new_model_comes_into_force_without_a_restart_and_asks_anew(site: Parts) -> None:
    await put_in_force(site, model_of(FIRST_FINDS))
    await prepare(site)
    async with running_consumers(site):
        first = await recommended(site)
        again = await recommended(site)
        version = await put_in_force(site, model_of(NEXT_FINDS))
        await until(lambda: in_force(site, version))
        second = await recommended(site)
    assert again == first
    assert second["versions"] == {**first["versions"], "collaborative": version}
    assert set(types(first)) & set(FIRST_FINDS)
    assert not set(types(second)) & set(FIRST_FINDS)
    assert set(types(second)) & set(NEXT_FINDS)


async def test_a_promotion_and_its_rollback_reach_a_running_worker_whose_results_name_the_version(site: Parts) -> None:
    store = SqlModelStore(site.database, site.clock)
    first, second = model_of(FIRST_FINDS), model_of(NEXT_FINDS)
    for fitted in (first, second):
        await store.save(MODEL_KIND, fitted.version, fitted.to_bytes(), {})
    await store.promote(MODEL_KIND, first.version, instead_of=None, cause="fit", reason="")
    await prepare(site)
    results = []
    async with running_consumers(site):
        results.append(await recommended(site))
        await store.promote(MODEL_KIND, second.version, instead_of=first.version, cause="fit", reason="")
        await until(lambda: in_force(site, second.version))
        results.append(await recommended(site))
        assert await store.roll_back(MODEL_KIND, "it lies") == first.version
        await until(lambda: in_force(site, first.version))
        results.append(await recommended(site))
    named = [result["versions"]["collaborative"] for result in results]
    assert named == [first.version, second.version, first.version]
    for result, finds in zip(results, (FIRST_FINDS, NEXT_FINDS, FIRST_FINDS), strict=True):
        assert set(types(result)) & {*FIRST_FINDS, *NEXT_FINDS} == set(types(result)) & set(finds) != set()


async def test_a_first_model_comes_into_force_without_a_restart(site: Parts) -> None:
    await prepare(site)
    async with running_consumers(site):
        version = await put_in_force(site, model_of(FIRST_FINDS))
        await until(lambda: in_force(site, version))
        result = await recommended(site)
    assert set(types(result)) & set(FIRST_FINDS)


async def test_a_worker_that_searches_inside_the_database_serves_the_model_too(mysql_url: str, tmp_path: Path) -> None:
    in_mysql = {"database_url": SecretStr(mysql_url), "retrieval": "database"}
    async with a_site(embedded(SETTINGS, tmp_path).model_copy(update=in_mysql)) as site:
        await put_in_force(site, model_of(FIRST_FINDS))
        await prepare(site)
        async with running_consumers(site):
            result = await recommended(site)
    assert len(set(types(result)) & set(FIRST_FINDS)) >= 5


async def in_force(site: Parts, version: str) -> bool:
    source = site.collaborative.current()
    return source is not None and source.version == version

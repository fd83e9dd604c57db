"""``models list``, ``history``, ``promote`` and ``rollback`` as a person uses them, and ``fit`` beside another fit."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from core.fitted_collaborative import MODEL_KIND
from services import migrations
from services.clock import SystemClock
from services.database import Database, parse_url
from services.fit_lease import held_lease
from services.model_store import SqlModelStore
from tests.support.command import Outcome, completed, run_here
from tests.support.hand_clock import HandClock
from tests.support.notice_servers import hook_server

METRICS = {"recall": 0.25, "ndcg": 0.125, "holdout_recall": 0.5, "holdout_ndcg": 0.375}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'songs.db'}"


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[SqlModelStore]:
    """Of versions aa1, ab2 and b3, saved in this order; aa1 was in force before ab2."""
    migrations.upgrade(parse_url(url))
    database, clock = Database(url, pool_size=2), HandClock()
    store = SqlModelStore(database, clock)
    for version in ("aa1", "ab2", "b3"):
        await store.save(MODEL_KIND, version, bytes(2048), METRICS)
        clock.move(3600)
    await store.promote(MODEL_KIND, "aa1", instead_of=None, cause="fit", reason="no version was in force")
    await store.promote(MODEL_KIND, "ab2", instead_of="aa1", cause="fit", reason="not worse than aa1")
    yield store
    await database.close()


async def models(url: str, *command: str, **environment: str) -> Outcome:
    return await run_here("models", *command, environment={"DATABASE_URL": url, **environment})


async def test_the_list_shows_versions_with_their_figures(url: str, store: SqlModelStore) -> None:
    outcome = await models(url, "list")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    [newest] = [line for line in lines if " b3 " in line]
    assert [cell.strip() for cell in newest.split("│")[1:-1]] == [
        "b3", "2026-03-01 14:00", "", "2", "0.2500", "0.1250", "0.5000 0.3750",
    ]  # fmt: skip
    assert "active" in next(line for line in lines if " ab2 " in line)
    assert "previous" in next(line for line in lines if " aa1 " in line)
    assert lines[-1] == "3 versions of collaborative"


async def test_the_list_is_json_where_a_program_asks(url: str, store: SqlModelStore) -> None:
    found = json.loads((await models(url, "list", "--json")).out)
    assert [(each["version"], each["active"], each["previous"]) for each in found] == [
        ("b3", False, False),
        ("ab2", True, False),
        ("aa1", False, True),
    ]
    assert found[0]["metrics"] == METRICS
    assert found[0]["created_at"] == "2026-03-01T14:00:00.123456+00:00"
    assert json.loads((await models(url, "list", "--kind", "embedder", "--json")).out) == []


async def test_a_version_is_promoted_by_how_it_begins_and_rolled_back_again(url: str, store: SqlModelStore) -> None:
    outcome = await models(url, "promote", "b", "--why", "it sings")
    assert (outcome.code, outcome.out) == (0, "version b3 is in force in place of ab2\n")
    assert await store.active_version(MODEL_KIND) == "b3"
    assert (await models(url, "promote", "b3")).out == "version b3 is in force already\n"
    outcome = await models(url, "rollback", "--json", "--why", "it does not")
    assert json.loads(outcome.out) == {"kind": MODEL_KIND, "version": "ab2", "replaced": "b3"}
    assert await store.active_version(MODEL_KIND) == "ab2"
    told = json.loads((await models(url, "history", "--json")).out)
    assert [(each["version"], each["replaced"], each["cause"], each["reason"]) for each in told[2:]] == [
        ("b3", "ab2", "promote", "it sings"),
        ("ab2", "b3", "rollback", "it does not"),
    ]
    table = (await models(url, "history")).out
    assert "it sings" in table
    assert table.index("no version was in force") < table.index("it does not")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("promote", "a"), "2 versions of 'collaborative' begins with 'a'"),
        (("promote", "c"), "no version of 'collaborative' begins with 'c'"),
        (("rollback", "--kind", "embedder"), "no version of 'embedder' was in force before"),
    ],
)
async def test_what_cannot_be_done_is_said_and_changes_nothing(
    url: str, store: SqlModelStore, command: tuple[str, ...], sentence: str
) -> None:
    outcome = await models(url, *command)
    assert outcome.code == 2
    assert sentence in " ".join(outcome.err.split())
    assert await store.active_version(MODEL_KIND) == "ab2"
    assert len(await store.promotions(MODEL_KIND)) == 2


async def test_people_are_told_of_a_promotion_and_of_a_rollback(url: str, store: SqlModelStore) -> None:
    async with hook_server() as hooks:
        told = {"NOTICE_WEBHOOK": hooks.url}
        await models(url, "promote", "b3", "--why", "it sings", **told)
        await models(url, "promote", "b3", **told)
        await models(url, "rollback", **told)
    assert [(each["kind"], each["text"]) for each in hooks.bodies] == [
        ("model_promoted", "version b3 of collaborative was put in force in place of ab2: it sings"),
        ("model_promoted", "version ab2 of collaborative is in force again in place of b3: by hand"),
    ]


async def test_a_promotion_prunes_as_the_setting_says(url: str, store: SqlModelStore) -> None:
    for version in ("c4", "c5", "c6"):
        await store.save(MODEL_KIND, version, b"", {})
    await models(url, "promote", "b3", MODEL_VERSIONS_KEPT="2")
    kept = {each.version for each in await store.versions(MODEL_KIND)}
    assert kept >= {"b3", "ab2"}
    assert "aa1" not in kept
    assert len(kept) == 4


async def test_a_fit_beside_another_is_refused_and_a_promotion_by_hand_is_not(url: str, store: SqlModelStore) -> None:
    with held_lease(parse_url(url), SystemClock()):
        outcome = await run_here("fit", environment={"DATABASE_URL": url, "LOG_LEVEL": "ERROR"})
        assert outcome.code == 2
        assert "another fit is under way" in " ".join(outcome.err.split())
        assert (await models(url, "promote", "b3")).code == 0
    # Now it gets as far as the missing catalogue.
    outcome = await run_here("fit", environment={"DATABASE_URL": url, "LOG_LEVEL": "ERROR"})
    assert "the database has no table 'song'" in " ".join(outcome.err.split())
    # And let go.
    with held_lease(parse_url(url), SystemClock()):
        pass


async def test_a_shell_is_offered_the_versions_that_are_kept(url: str, store: SqlModelStore) -> None:
    site = {"DATABASE_URL": url}
    assert sorted(await completed("main.py models promote ", environment=site)) == ["aa1", "ab2", "b3"]
    assert await completed("main.py models promote ab", environment=site) == ["ab2"]
    assert await completed("main.py models promote --kind embedder a", environment=site) == []

"""From a database of likes to a model in force: what ``main.py fit`` does, step by step and as a command."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from threadpoolctl import threadpool_limits

from core.collaborative import Likes
from core.embedding import HashingEmbedder
from core.errors import ConfigurationError
from core.fitted_collaborative import MODEL_KIND, FittedCollaborative
from core.ports.collaborative import FusionWeights, Interaction
from services import migrations
from services.catalogue import SqlCatalogue
from services.database import Database, parse_url
from services.embedding_store import SqlEmbeddingStore
from services.interaction_log import SqlInteractionLog
from services.model_store import SqlModelStore
from tests.support.catalogue import SONGS, record_event
from tests.support.command import run_command, run_here
from tests.support.hand_clock import HandClock
from tests.support.made_up_site import fill_site
from tests.support.notice_servers import hook_server
from training import recipe, tuning
from training.embed import embed_catalogue
from training.fit import FitReport, Kept, active_of, fit_on, keep
from training.observations import Observed, observe
from training.tuning import DEFAULTS

N_SONGS, N_LISTENERS = 500, 300
EMBEDDER = HashingEmbedder(64)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, [factors] = replace(DEFAULTS.linear, rank=32), DEFAULTS.factors
    small = replace(DEFAULTS, linear=linear, factors=(replace(factors, dim=32, n_iterations=4),))
    monkeypatch.setattr(tuning, "DEFAULTS", small)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'songs.db'}"


@pytest_asyncio.fixture
async def database(url: str) -> AsyncIterator[Database]:
    migrations.upgrade(parse_url(url))
    database = Database(url, pool_size=4, timeout_s=30)
    yield database
    await database.close()


async def with_listeners(database: Database, n_listeners: int = N_LISTENERS, *, embedded: bool = True) -> None:
    """A generated catalogue, whose listeners have tastes, as ``demo`` has it."""
    await fill_site(database, SONGS, n_songs=N_SONGS, n_creators=60, n_listeners=n_listeners)
    if embedded:
        await embed_catalogue(SqlCatalogue(database, SONGS), EMBEDDER, SqlEmbeddingStore(database, SONGS))


async def observed_in(database: Database) -> Observed:
    log, embeddings = SqlInteractionLog(database, SONGS), SqlEmbeddingStore(database, SONGS)
    return await observe(log, embeddings, EMBEDDER.name)


def fitted_on(observed: Observed, seed: int = 0) -> FitReport:
    return fit_on(observed, budget_s=0, seed=seed)


async def fitted_and_kept(database: Database, models: SqlModelStore, seed: int = 0) -> tuple[FitReport, Kept]:
    """What the command does."""
    report = fit_on(await observed_in(database), active=await active_of(models), budget_s=0, seed=seed)
    return report, await keep(models, report)


async def test_planted_tastes_are_found_kept_and_put_in_force(database: Database) -> None:
    await with_listeners(database)
    observed, models = await observed_in(database), SqlModelStore(database, HandClock())
    report = fitted_on(observed)
    await keep(models, report)
    assert await models.active_version(MODEL_KIND) == report.fitted.version
    payload = await models.load(MODEL_KIND, report.fitted.version)
    assert payload is not None
    loaded = FittedCollaborative.from_bytes(payload)
    assert loaded.version == report.fitted.version
    assert loaded.item_ids.tolist() == observed.item_ids.tolist()
    assert np.isfinite(loaded.model.scores(Likes.of([[0, 1]]))).all()
    for measure in ("recall", "ndcg"):
        ours, alone, popular = (report.metrics[f"{who}{measure}"] for who in ("", "collaborative_", "popularity_"))
        assert min(ours, alone) > 1.3 * popular > 0
    assert report.metrics["n_users"] == N_LISTENERS
    assert report.metrics["n_interactions"] == len(observed.data.items)


async def test_the_same_data_and_seed_are_the_same_version_and_kept_twice_change_nothing(database: Database) -> None:
    await with_listeners(database)
    first, second = [fitted_on(await observed_in(database)) for _ in range(2)]
    models = SqlModelStore(database, HandClock())
    await keep(models, first)
    await keep(models, second)
    assert first.fitted.version == second.fitted.version == await models.active_version(MODEL_KIND)
    assert fitted_on(await observed_in(database), seed=1).fitted.version != first.fitted.version


async def test_a_report_says_what_was_fitted_how_good_it_is_and_what_was_chosen(database: Database) -> None:
    await with_listeners(database)
    told: list[str] = []
    report = fit_on(await observed_in(database), budget_s=0, tell=told.append)
    lines = list(report)
    assert re.match(rf"version {report.fitted.version}: [\d,]+ interactions of 300 members with [\d,]+ items", lines[0])
    assert re.match(r"validation, popularity: Recall@20 0\.\d{4}, NDCG@20 0\.\d{4}", lines[3])
    assert re.match(r"held out, what was liked after 2026-01-\d\d \d\d:\d\d UTC: Recall@20 0\.\d{4}", lines[4])
    assert str(FusionWeights.__name__) in lines[-1]
    assert any(line.startswith("fusion, 1 of 9 at most: ") for line in told)
    assert told[-1] == "fitting on all interactions"


async def test_items_are_described_by_what_the_index_knows(database: Database) -> None:
    await with_listeners(database)
    observed = await observed_in(database)
    assert observed.content.shape[0] == len(observed.item_ids) == len(observed.vectors) == len(observed.creators)
    items = await SqlCatalogue(database, SONGS).items(observed.item_ids.tolist())
    by_creator: dict[str | None, set[int]] = {}
    for item_id, creator in zip(observed.item_ids.tolist(), observed.creators.tolist(), strict=True):
        by_creator.setdefault(items[item_id].creator, set()).add(creator)
    assert all(len(numbers) == 1 for numbers in by_creator.values())
    assert np.diff(observed.content.indptr).min() > 0


# --- beside the version in force ---


async def test_a_version_of_newer_data_takes_the_place_of_one_no_better(database: Database, url: str) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    first, _ = await fitted_and_kept(database, models)
    for member in range(1, 60):
        at = datetime(2026, 2, 1) + timedelta(days=member)  # noqa: DTZ001 - as the database holds it
        record_event(url, f"late {member}", member, member % N_SONGS + 1, "like", at=at)
    second, kept = await fitted_and_kept(database, models)
    assert kept.changed
    assert kept.reason.startswith(f"not worse than {first.fitted.version} (")
    assert await models.active_version(MODEL_KIND) == second.fitted.version != first.fitted.version
    [_, step] = await models.promotions(MODEL_KIND)
    assert (step.replaced, step.cause, step.reason) == (first.fitted.version, "fit", kept.reason)
    [newest, _] = await models.versions(MODEL_KIND)
    assert newest.metrics["holdout_recall_of_active"] > 0


BLIND = FusionWeights(content=0.0, collaborative=0.0, popularity=1.0)


async def test_a_worse_version_is_kept_but_not_put_in_force(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    first, _ = await fitted_and_kept(database, models)
    active = await active_of(models)
    assert active is not None
    monkeypatch.setattr(recipe, "choose_weights", lambda *_, **__: BLIND)
    # As an older program left it, so that its recipe cannot stay.
    second = fit_on(await observed_in(database), active=replace(active, recipe=None), budget_s=0, seed=1)
    kept = await keep(models, second)
    assert second.recipe.weights == BLIND
    assert (kept.changed, kept.in_force) == (False, False)
    assert re.search(
        r"worse than \w+ \(the default recipe with its mixture\) on \d+ listeners: Recall@20 0\.\d+ against",
        kept.reason,
    )
    assert await models.active_version(MODEL_KIND) == first.fitted.version
    assert await models.load(MODEL_KIND, second.fitted.version) == second.fitted.to_bytes()
    assert "kept, but not put in force: worse than" in str(kept)


async def test_a_worse_recipe_than_the_active_one_is_not_even_fitted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    first, _ = await fitted_and_kept(database, models)
    monkeypatch.setattr(recipe, "choose_weights", lambda *_, **__: BLIND)
    second, kept = await fitted_and_kept(database, models, seed=1)
    assert second.recipe == first.recipe
    assert kept.in_force


async def test_what_was_fitted_again_is_in_force_already(database: Database) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    for reason in ("no version was in force", "it was already"):
        report, kept = await fitted_and_kept(database, models)
        assert (kept.in_force, kept.reason) == (True, reason)
        # Its instants are known, so the next one is asked beside it only for what came since.
        assert report.until_s is not None
    assert len(await models.promotions(MODEL_KIND)) == 1


async def test_a_fit_that_was_overtaken_is_not_put_in_force(database: Database) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    observed = await observed_in(database)
    slow, quick = fitted_on(observed), fitted_on(observed, seed=1)
    assert (await keep(models, quick)).changed
    kept = await keep(models, slow)
    assert not kept.in_force
    assert kept.reason == "it was compared with none, and meanwhile another was put in force"
    assert await models.active_version(MODEL_KIND) == quick.fitted.version


async def test_what_a_check_refuses_is_kept_and_told(database: Database) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    report = fitted_on(await observed_in(database))
    kept = await keep(models, report, refused="data have drifted")
    assert str(kept) == f"version {report.fitted.version} is kept, but not put in force: data have drifted"
    assert await models.active_version(MODEL_KIND) is None


async def test_a_version_in_force_that_cannot_be_read_gives_way(database: Database) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    await models.save(MODEL_KIND, "spoilt", b"no model", {})
    await models.activate(MODEL_KIND, "spoilt")
    _, kept = await fitted_and_kept(database, models)
    assert kept.changed
    assert kept.reason == "spoilt, which was in force, cannot be read"


# --- what is not there ---


async def test_a_catalogue_without_vectors_is_sent_to_embed_first(database: Database) -> None:
    await with_listeners(database, embedded=False)
    with pytest.raises(ConfigurationError, match=r"no item has a vector of hashing.*main.py embed"):
        await observed_in(database)


async def test_too_few_listeners_are_refused_with_their_number(database: Database, url: str) -> None:
    await with_listeners(database, 40)
    for member_id in range(1000, 1100):
        for song_id in (1, 2):
            record_event(url, f"{member_id} {song_id}", member_id, song_id, "like")
    with pytest.raises(ConfigurationError, match="40 have 5 items or more, 100 are needed"):
        await observed_in(database)


class _Log:
    """An ``InteractionLog`` of given pairs."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._pairs = pairs

    async def stream(self, batch_size: int = 10_000) -> AsyncIterator[Sequence[Interaction]]:
        for start in range(0, len(self._pairs), batch_size):
            part = self._pairs[start : start + batch_size]
            yield [Interaction(member_id=member, item_id=item, weight=1.0) for member, item in part]


async def test_too_few_interactions_are_refused_with_their_number(database: Database) -> None:
    await with_listeners(database, 1)
    log = _Log([(member, item) for member in range(110) for item in range(1, 7)])
    with pytest.raises(ConfigurationError, match="there are 660, 1000 are needed"):
        await observe(log, SqlEmbeddingStore(database, SONGS), EMBEDDER.name)


async def test_interactions_with_items_that_have_no_vector_are_left_out(database: Database) -> None:
    await with_listeners(database, 1)
    log = _Log([(member, item) for member in range(110) for item in (*range(1, 12), 10**9)])
    observed = await observe(log, SqlEmbeddingStore(database, SONGS), EMBEDDER.name)
    assert observed.item_ids.tolist() == list(range(1, 12))


async def test_a_site_with_few_items_gets_a_model_too(database: Database) -> None:
    await with_listeners(database, 1)
    log = _Log([(member, 1 + (member + step) % 12) for member in range(200) for step in range(8)])
    report = fitted_on(await observe(log, SqlEmbeddingStore(database, SONGS), EMBEDDER.name))
    assert len(report.fitted.item_ids) == 12
    assert all(np.isfinite(value) for value in report.metrics.values())


async def test_what_members_do_counts_without_a_single_like(database: Database, url: str) -> None:
    await with_listeners(database, 1)
    for place in range(1100):
        record_event(url, f"e{place}", 1000 + place // 10, 1 + (place * 7) % N_SONGS, "repeat")
    observed = await observed_in(database)
    assert set(observed.data.weights[observed.data.users > 0].tolist()) == {0.5}


# --- as a command ---


async def test_the_command_fits_and_puts_in_force_unless_it_is_dry(url: str, database: Database) -> None:
    await with_listeners(database)
    environment = {"DATABASE_URL": url, "LOG_LEVEL": "ERROR", "EMBEDDING_DIM": "64"}
    models = SqlModelStore(database, HandClock())
    dry = await run_command("fit", "--budget-s", "0", "--dry-run", environment=environment)
    assert dry.code == 0, dry.err
    assert "nothing is kept: --dry-run" in dry.out
    assert await models.active_version(MODEL_KIND) is None
    outcome = await run_command("fit", "--budget-s", "0", environment=environment)
    assert outcome.code == 0, outcome.err
    version = await models.active_version(MODEL_KIND)
    assert outcome.out.splitlines()[-1] == f"version {version} is in force: no version was in force"
    assert "Recall@20" in outcome.out
    assert "fitting on all interactions" in outcome.err


async def test_the_command_keeps_what_a_failed_check_refuses_out_of_force(url: str, database: Database) -> None:
    await with_listeners(database)
    models = SqlModelStore(database, HandClock())
    environment = {"DATABASE_URL": url, "EMBEDDING_DIM": "64", "CHECK_ORPHANED": "0.001"}
    for place in range(100):
        record_event(url, f"orphan {place}", 1, 10**9, "repeat")
    async with hook_server() as hooks:
        told = {**environment, "NOTICE_WEBHOOK": hooks.url}
        outcome = await run_here("fit", "--budget-s", "0", environment=told)
    assert outcome.code == 0, outcome.err
    assert [each["kind"] for each in hooks.bodies] == ["check_failed", "model_rejected"]
    assert hooks.bodies[1]["figures"]["holdout_recall"] > 0
    [orphans] = [line for line in outcome.out.splitlines() if "orphans" in line and "failed" in line and "│" in line]
    assert "likes, lists and events" in orphans
    assert "is kept, but not put in force: a check of the data failed: orphans, " in outcome.out
    assert await models.active_version(MODEL_KIND) is None
    [kept] = await models.versions(MODEL_KIND)
    origin = await models.origin(MODEL_KIND, kept.version)
    assert origin is not None
    assert '"n_orphaned": 100' in origin.data_figures
    # Who knows better puts it in force, and its data are what the next ones are compared with.
    assert (await run_here("models", "promote", kept.version, environment=environment)).code == 0
    again = await run_here("fit", "--budget-s", "0", "--dry-run", environment=environment)
    assert "no figures of a last accepted version" not in again.out
    assert "nothing is kept: --dry-run" in again.out


async def test_the_command_asks_for_what_members_were_not_shown(url: str, database: Database, redis_url: str) -> None:
    await with_listeners(database)
    async with Redis.from_url(redis_url) as client:
        for member in range(1, N_LISTENERS + 1):
            await client.hset(f"songs_ai:shown:{member}", mapping={str(song): "0:730000" for song in range(1, 101)})
    environment = {"DATABASE_URL": url, "LOG_LEVEL": "ERROR", "EMBEDDING_DIM": "64", "REDIS_URL": redis_url}
    outcome = await run_here("fit", "--budget-s", "0", "--dry-run", environment=environment)
    assert outcome.code == 0, outcome.err
    assert re.search(r"held out, what was liked after [^,]+, but the \d+ of \d+ likes of items that had", outcome.out)


async def test_the_command_fits_where_nobody_can_say_what_members_were_shown(url: str, database: Database) -> None:
    await with_listeners(database)
    environment = {"DATABASE_URL": url, "LOG_LEVEL": "ERROR", "EMBEDDING_DIM": "64"}
    away = {**environment, "REDIS_URL": "redis://127.0.0.1:1/0"}
    outcome = await run_here("fit", "--budget-s", "0", environment=away)
    assert outcome.code == 0, outcome.err
    assert "what members were shown is not known, and counts like all else: " in outcome.err
    assert re.search(r"held out, what was liked after [^,]+ UTC: Recall@20", outcome.out)
    assert await SqlModelStore(database, HandClock()).active_version(MODEL_KIND) is not None


async def test_the_command_says_in_a_sentence_what_it_lacks(url: str, database: Database) -> None:
    await with_listeners(database, 20)
    environment = {"DATABASE_URL": url, "LOG_LEVEL": "ERROR", "EMBEDDING_DIM": "64"}
    outcome = await run_command("fit", environment=environment)
    assert outcome.code == 2
    assert "too few listeners to fit on: 20 have 5 items or more" in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err

"""The dashboards: that Grafana can read them, that what they ask exists, and that under load no panel is empty."""

import asyncio
import json
import math
import re
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest
import yaml
from prometheus_client import CollectorRegistry

from core.fitted_collaborative import MODEL_KIND
from core.ports.batches import BatchTotals, BatchUsage
from core.schedule import TaskOutcome
from deploy.grafana.generate import contents
from services.clock import SystemClock
from services.database import Database
from services.metrics import PrometheusMetrics
from services.model_store import SqlModelStore
from services.task_runs import SqlTaskRuns
from tests.support.backend import Document, job_body
from tests.support.fitted_models import going_together
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.prometheus import PrivatePrometheus, Scraping, StartPrometheus
from tests.support.worker_process import WorkerProcess
from tests.test_end_to_end import CATALOGUE, Site, jobs_of, open_site

ROOT = Path(__file__).parents[1]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (GRAFANA / "dashboards").iterdir()}
UNITS = {"short", "ops", "reqps", "s", "bytes", "percentunit", "currencyUSD"}
# What Prometheus says of its own accord, or by the rules of deploy/prometheus.
OF_PROMETHEUS = {"up", "ALERTS"}
_METRIC = re.compile(r"\b(?:songs_ai|process)_\w+")
_LEGEND = re.compile(r"{{(\w+)}}")
_LABELS = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"|by \(([^)]*)\)")
Json = dict[str, Any]


def panels() -> Iterator[tuple[str, Json]]:
    for name, dashboard in DASHBOARDS.items():
        yield from ((f"{name}: {panel['title']}", panel) for panel in dashboard["panels"] if panel["type"] != "row")


def queries() -> Iterator[tuple[str, str, str]]:
    """Panel, expression and legend of each."""
    for name, panel in panels():
        yield from ((name, target["expr"], target["legendFormat"]) for target in panel["targets"])


def filled_in(expression: str) -> str:
    """As Grafana sends it for all workers; its interval is four scrapes at the least."""
    return expression.replace("$__rate_interval", "30s").replace("$instance", ".*")


def labels_of_metrics() -> Mapping[str, set[str]]:
    """Labels of every series that a worker exposes, those that come later included."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry, clock=SystemClock())
    metrics.dependency_checked("redis", up=True, seconds=0.1)
    metrics.index_loaded(version="v", embedder_name="e", n_items=1, recall=1)
    metrics.collaborative_loaded(version="v", n_items=1, recall=1)
    metrics.messages_waiting(route="main", n=1, oldest_s=1)
    metrics.task_succeeded("refresh", datetime.now(UTC))
    metrics.batches_totalled(BatchTotals(BatchUsage(), {"merged": 0}))
    found: dict[str, set[str]] = {}
    for sample in (sample for family in registry.collect() for sample in family.samples):
        found.setdefault(sample.name, {"instance", "job"}).update(sample.labels)
    return found


# --- as files ---


def test_they_are_what_their_panels_make_of_them() -> None:
    made = contents()
    assert set(made) == set(DASHBOARDS)
    for name, content in made.items():
        path = GRAFANA / "dashboards" / name
        assert path.read_text(encoding="utf-8") == content, "run python deploy/grafana/generate.py"


def test_each_has_a_uid_of_its_own_that_its_file_is_named_by() -> None:
    assert len(DASHBOARDS) == 3
    for name, dashboard in DASHBOARDS.items():
        assert name == f"{dashboard['uid']}.json"
        assert len(dashboard["uid"]) <= 40  # Grafana's limit
        assert dashboard["schemaVersion"] >= 36  # data sources by uid
        assert dashboard["title"].startswith("Songs AI: ")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_numbers_of_their_own_and_do_not_overlap(name: str) -> None:
    placed = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    places = [panel["gridPos"] for panel in placed]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or below, (one, other)


def test_every_panel_has_a_title_of_its_own_a_unit_and_a_legend_for_each_of_several_lines() -> None:
    names = [name for name, _ in panels()]
    for name, panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, name
        assert defaults["thresholds"]["steps"][0]["value"] is None, name
        assert panel["type"] in {"stat", "timeseries"}, name
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)), name
        assert panel["type"] == "stat" or all(target["legendFormat"] for target in panel["targets"]), name
    assert len(names) > 60
    assert len(set(names)) == len(names)


def test_no_query_of_a_panel_is_lost_on_the_way() -> None:
    sources = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (GRAFANA / "panels").glob("*.yml")]
    asked = [panel["asks"] for source in sources for row in source["rows"] for panel in row["panels"]]
    assert sum(1 if isinstance(asks, str) else len(asks) for asks in asked) == len(list(queries()))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_any_prometheus_of_a_grafana_may_be_the_data_source_and_its_default_is_at_first(name: str) -> None:
    named = set(re.findall(r'"type": "prometheus", "uid": "([^"]*)"', json.dumps(DASHBOARDS[name])))
    assert named == {"${datasource}"}
    first, *_ = DASHBOARDS[name]["templating"]["list"]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert first["current"]["value"] == "default"


def test_composes_grafana_is_given_the_data_source_and_the_dashboards() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert [(source["type"], source["isDefault"]) for source in sources["datasources"]] == [("prometheus", True)]
    providers = yaml.safe_load((GRAFANA / "provisioning/dashboards/songs-ai.yml").read_text(encoding="utf-8"))
    (provider,) = providers["providers"]
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in mounts


def test_links_lead_to_paragraphs_of_alerts_that_there_are() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"].lower() for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    links = {link["url"] for _, panel in panels() for link in panel.get("links", ())}
    assert len(links) > 15
    for url in links:
        address, _, anchor = url.partition("#")
        assert (address, anchor in alerts) == ("${runbook}", True), url


# --- what they ask ---


def test_every_query_names_metrics_labels_and_legends_that_there_are() -> None:
    known = labels_of_metrics()
    for name, expression, legend in queries():
        metrics = set(_METRIC.findall(expression))
        assert metrics <= set(known), name
        assert metrics or "up" in expression, name
        labels = {"instance", "job"}.union(*(known[metric] for metric in metrics))
        used = {label.strip() for one, several in _LABELS.findall(expression) for label in (one or several).split(",")}
        assert used <= labels, name
        assert set(_LEGEND.findall(legend)) <= labels, name


def test_the_choice_of_a_worker_hides_nothing_of_the_processes_that_it_cannot_choose() -> None:
    (choice,) = {variable["query"]["query"] for d in DASHBOARDS.values() for variable in d["templating"]["list"][1:2]}
    assert choice == 'label_values(songs_ai_build_info{job="songs-ai"}, instance)'
    of_others = [(name, asked) for name, asked, _ in queries() if "songs-ai-api" in asked]
    assert len(of_others) > 3
    assert [name for name, asked in of_others if "$instance" in asked] == []


def test_what_no_worker_sees_alone_is_never_summed_over_workers() -> None:
    """Queues, spending and batches are the same whoever looks: a sum counts them once a worker."""
    shared = r"songs_ai_(queue_\w+|jobs_waiting|dead_letters|llm_spend\w+|llm_daily\w+|llm_batch\w+)"
    for name, expression, _ in queries():
        assert not re.search(rf"sum(?: by \([^)]*\))? ?\((?:rate\()?{shared}", expression), name


def test_every_query_is_promql(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": filled_in(asked)} for n, (_, asked, _) in enumerate(queries())]
    rules += [{"record": "panel:alerts", "expr": d["annotations"]["list"][0]["expr"]} for d in DASHBOARDS.values()][:1]
    path = tmp_path / "queries.json"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what they show ---

EVENT_TYPES = ("like", "play", "skip", "dislike")
SETTINGS = {
    "LLM_SHARE": "0.7",
    "LLM_DAILY_USD": "5",
    "LLM_REQUESTS_PER_MINUTE": "6000",
    "LLM_PRICES": '{"gpt-4.1-mini": {"input": 0.4, "output": 1.6}, "gpt-4.1": {"input": 2, "output": 8}}',
    "LLM_BREAKER_FAILURES": "1000",
    "REFRESH_QUIET_S": "0.5",
    "LEADER_LEASE_S": "3",
}


async def lived_in(url: str) -> None:
    """A site where a model was fitted, and a task has run before."""
    database, clock = Database(url), SystemClock()
    try:
        model = going_together({song_id: song_id % 5 for song_id in CATALOGUE})
        store = SqlModelStore(database, clock)
        await store.save(MODEL_KIND, model.version, model.to_bytes(), {})
        await store.activate(MODEL_KIND, model.version)
        runs, now = SqlTaskRuns(database), clock.now()
        await runs.add("clean_up", now)
        assert await runs.begin("clean_up", at=now, fence=0, worker="before")
        assert await runs.end("clean_up", at=now, fence=0, outcome=TaskOutcome.SUCCEEDED, detail="")
    finally:
        await database.close()


class Load:
    """Members who like things, come back, and are shown others, until it is enough."""

    def __init__(self, site: Site, process: WorkerProcess, events: aio_pika.abc.AbstractExchange) -> None:
        self._site, self._process, self._events = site, process, events
        self.n_rounds = 0
        self.is_enough = False

    async def run(self) -> None:
        """Rounds until ``is_enough``: CPython 3.11 may swallow the cancellation of what they await."""
        await self._site.backend.publish_raw(b'{"jobId": "no job"}')
        while not self.is_enough:
            members = range(10 * self.n_rounds, 10 * self.n_rounds + 10)
            bodies = jobs_of(members, source="manual")
            await self._served(bodies)
            again = [{**body, "jobId": str(uuid.uuid4()), "source": "login"} for body in bodies[:3]]
            await self._served([*again, job_body(members[0], [1, 999_999])])
            for body in bodies:
                await self._react(body)
            async with self._process.client() as client:
                await client.get("/health")
                await client.post("/recommend/cached", json={"memberId": members[0]})
            self.n_rounds += 1

    async def _served(self, bodies: list[Document]) -> None:
        await self._site.backend.wait(await self._site.backend.publish(bodies), 20, until={"succeeded"})

    async def _react(self, body: Document) -> None:
        shown = await self._site.backend.result(body["jobId"])
        for kind, song in zip(EVENT_TYPES, shown["candidates"], strict=False):
            event = {
                "eventId": str(uuid.uuid4()),
                "memberId": body["memberId"],
                "songId": song["song_id"],
                "type": kind,
                "occurredAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            }
            await self._events.publish(aio_pika.Message(orjson.dumps(event)), routing_key=f"event.{kind}")


@asynccontextmanager
async def loaded(site: Site, process: WorkerProcess) -> AsyncIterator[Load]:
    async with await aio_pika.connect(site.amqp_url) as connection, connection.channel() as channel:
        load = Load(site, process, await channel.get_exchange(f"{site.prefix}.events.exchange"))
        running = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            load.is_enough = True
            await running


def shows_something(prometheus: PrivatePrometheus, expression: str) -> bool:
    return any(not math.isnan(sample.value) for sample in prometheus.query(filled_in(expression)))


async def still_empty(prometheus: PrivatePrometheus, *, within_s: float) -> dict[str, str]:
    """Queries that show nothing however long one waits, by their panels."""
    asked = {f"{name} ({legend})": expression for name, expression, legend in queries()}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while asked and loop.time() < deadline:
        for name, expression in list(asked.items()):
            if await asyncio.to_thread(shows_something, prometheus, expression):
                del asked[name]
        await asyncio.sleep(0.2)
    return asked


@pytest.mark.timeout(120)
async def test_under_load_no_panel_is_empty(
    amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer, prometheus_server: StartPrometheus
) -> None:
    async with open_site(amqp_url, mysql_url, redis_url, llm_server, **SETTINGS) as site:
        await lived_in(mysql_url)
        process = WorkerProcess(site.environment, forked=True)
        try:
            # a worker serves HTTP too, and stands in for a process that serves nothing else
            addresses = [f"127.0.0.1:{process.http_port}"]
            scraped = Scraping(targets={"songs-ai": addresses, "songs-ai-api": addresses})
            prometheus, _ = await asyncio.gather(asyncio.to_thread(prometheus_server, scraped), process.start())
            twice = 'count_over_time(songs_ai_build_info{job="songs-ai"}[30s]) > 1'
            await asyncio.to_thread(prometheus.wait_for, twice)
            llm_server.fail(Fault.MALFORMED, times=2)
            llm_server.fail(Fault.SERVER_ERROR, times=1)
            async with loaded(site, process) as load:
                empty = await still_empty(prometheus, within_s=40)
            assert empty == {}, f"after {load.n_rounds} rounds"
            for moved in (
                'songs_ai_recommendations_total{outcome="succeeded",source="login"}',
                'songs_ai_deliveries_settled_total{outcome="dead_lettered",reason="invalid"}',
                'songs_ai_degraded_results_total{reason="malformed"}',
                'songs_ai_answer_cache_lookups_total{result="hit"}',
                "songs_ai_llm_cost_usd_total",
                "songs_ai_reactions_total",
                "songs_ai_unknown_items_total",
            ):
                assert await asyncio.to_thread(prometheus.wait_for, f"sum({moved}) > 0"), moved
        finally:
            if process.was_launched:
                await process.kill()

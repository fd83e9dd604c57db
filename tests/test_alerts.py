"""The alerts: each is tried by promtool, asks for what there is, and is told of in the runbook."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from typer.main import get_command

from config.settings import Settings
from core.ports.batches import BatchTotals, BatchUsage
from main import app
from models.log_event import LogEvent
from services.metrics import PrometheusMetrics
from tests.support.alert_files import (
    ROOT,
    ROUTES,
    RULE_TESTS,
    RULES,
    RUNBOOK,
    Selector,
    alerts,
    hurried,
    read_yaml,
    rules,
    selectors,
)
from tests.support.hand_clock import HandClock

NOT_OURS = frozenset({"up"})
"""What Prometheus itself makes of a scrape."""
PARTS_OF_ALL = "worker|worker_itself|dependency|jobs|llm|llm_money|llm_results|upkeep|index"


@pytest.fixture(scope="module")
def series() -> Mapping[str, list[Mapping[str, str]]]:
    """The labels of all series of a worker, by the names that it exposes."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry, clock=HandClock())
    for dependency in ("redis", "database", "broker", "consumer", "index"):
        metrics.dependency_checked(dependency, up=True, seconds=0.1)
    metrics.llm_models(["small"])
    metrics.llm_guarded(["small"], ceiling_usd=5)
    metrics.task_succeeded("embed", HandClock().now())
    metrics.batches_totalled(BatchTotals(BatchUsage(), {"merged": 0}))
    for route in ("main", "batch", "events"):
        metrics.messages_waiting(route=route, n=0, oldest_s=0)
    found: dict[str, list[Mapping[str, str]]] = {}
    for sample in (sample for family in registry.collect() for sample in family.samples):
        found.setdefault(sample.name, []).append(sample.labels)
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- what promtool says ---


def test_every_alert_fires_and_stays_silent_as_its_tests_say(promtool: str) -> None:
    run(promtool, "test", "rules", str(RULE_TESTS))


def test_a_rule_that_says_something_else_fails_those_tests(promtool: str, tmp_path: Path) -> None:
    tests = read_yaml(RULE_TESTS)
    tests["tests"] = [test for test in tests["tests"] if "memory" in test["input_series"][0]["series"]]
    copy = tmp_path / RULE_TESTS.name
    copy.write_text(yaml.safe_dump(tests), encoding="utf-8")
    shutil.copy(RULES, tmp_path)
    run(promtool, "test", "rules", str(copy))
    (tmp_path / RULES.name).write_text(RULES.read_text(encoding="utf-8").replace("> 0.85", "> 0.86"), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "SongsAiMemoryHigh" in done.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in read_yaml(RULE_TESTS)["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(alerts())
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(alerts()) - {"SongsAiWatchdog"}


def test_prometheus_takes_its_configuration_with_the_rules_where_compose_mounts_them(
    promtool: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "prometheus.yml", tmp_path)
    shutil.copy(RULES, tmp_path)
    assert "1 rule files found" in run(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


def test_rules_are_looked_at_as_often_as_their_times_need() -> None:
    config = read_yaml(ROOT / "prometheus.yml")
    assert config["global"]["evaluation_interval"] == config["global"]["scrape_interval"] == "15s"
    assert "songs-ai" in {job["job_name"] for job in config["scrape_configs"]}


# --- what they ask for ---


def test_every_expression_asks_for_series_that_a_worker_has(series: Mapping[str, list[Mapping[str, str]]]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = [selector for rule in rules() for selector in selectors(rule["expr"])]
    assert len(asked) > len(alerts())
    for selector in asked:
        if selector.metric not in NOT_OURS | recorded:
            assert any(_is_asked_for(selector, labels) for labels in series[selector.metric]), selector


def test_every_rule_that_is_recorded_is_used_by_an_alert() -> None:
    asked = {selector.metric for rule in alerts().values() for selector in selectors(rule["expr"])}
    assert {rule["record"] for rule in rules() if "record" in rule} <= asked


def test_what_an_expression_asks_for_is_read_from_it() -> None:
    expression = 'sum by (a, b) (rate(x_total{c="1",d!~"2|3"}[5m])) / on (e) y > 0.5 and absent(up{job="z"} == 1)'
    assert list(selectors(expression)) == [
        Selector("x_total", (("c", "=", "1"), ("d", "!~", "2|3"))),
        Selector("y"),
        Selector("up", (("job", "=", "z"),)),
    ]
    assert Selector("x", (("c", "=", "1"), ("d", "!~", "2|3"))).allows({"c": "1", "d": "4"})
    assert not Selector("x", (("d", "!~", "2|3"),)).allows({"d": "3"})
    assert not Selector("x", (("d", "=~", "2|3"),)).allows({"d": "23"})
    assert not Selector("x", (("d", "!=", ""),)).allows({})


def _is_asked_for(selector: Selector, labels: Mapping[str, str]) -> bool:
    """``job`` and ``instance`` are Prometheus'; of any other label that is asked for there must be one."""
    ours = tuple(matcher for matcher in selector.matchers if matcher[0] not in ("job", "instance"))
    return Selector(selector.metric, ours).allows(labels) and all(label in labels for label, _, _ in ours)


# --- what people are told ---


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_urgent_it_is_what_is_the_matter_and_where_to_read_on(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ({"none"} if name == "SongsAiWatchdog" else {"critical", "warning", "info"})
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert len(rule["annotations"]["summary"]) < 60


def test_the_runbook_has_a_paragraph_for_every_alert_and_for_no_other() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    paragraphs = dict(re.findall(r"^## (SongsAi\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(paragraphs) == set(alerts())
    for name, paragraph in paragraphs.items():
        for part in ("**Means**", "**Look**", "**Do**", "**Escalate**"):
            assert part in paragraph, f"{name} lacks {part}"
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= anchors


def test_the_runbook_names_metrics_commands_settings_and_log_events_that_there_are(
    series: Mapping[str, list[Mapping[str, str]]],
) -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series} | set(series)
    assert set(re.findall(r"\bsongs_ai_\w+", text)) <= names
    assert set(re.findall(r"main\.py ([a-z][a-z-]*)", text)) <= set(_commands())
    assert set(re.findall(r"dead-letters (list|show|replay|purge)", text)) == set(_commands("dead-letters"))
    settings = {name.upper() for name in Settings.model_fields}
    codes = {"DEPENDENCY_UNAVAILABLE", "DELIVERED_TOO_OFTEN", "PRECONDITION_FAILED", "PROCESSLIST", "STATUS"}
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)) <= settings | codes
    label_values = {value for each in series.values() for labels in each for value in labels.values()}
    words = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))
    assert words <= {event.value for event in LogEvent} | label_values | names | _fields_of_files()


def _commands(group: str | None = None) -> list[str]:
    command: Any = get_command(app)
    return list((command.commands[group] if group else command).commands)


def _fields_of_files() -> set[str]:
    """What the runbook names of others: secrets' files, a server's setting, a field of a strategy and one of a line."""
    secrets = set(re.findall(r"/etc/alertmanager/secrets/(\w+)", ROUTES.read_text(encoding="utf-8")))
    return secrets | {"max_connections", "fallback_model", "n_items"}


# --- how it reaches them ---


def test_alertmanager_takes_its_configuration(amtool: str, tmp_path: Path) -> None:
    shutil.copytree(ROUTES.parent, tmp_path / "alertmanager")
    assert "SUCCESS" in run(amtool, "check-config", str(tmp_path / "alertmanager" / ROUTES.name))


@pytest.mark.parametrize("name", alerts())
def test_every_alert_goes_to_whom_its_severity_says(amtool: str, name: str) -> None:
    labels = alerts()[name]["labels"]
    receiver = {"critical": "on-call", "warning": "slack", "info": "mail", "none": "heartbeat"}[labels["severity"]]
    told = [f"alertname={name}", *(f"{label}={value}" for label, value in labels.items())]
    assert run(amtool, "config", "routes", "test", f"--config.file={ROUTES}", *told).split() == [receiver]


def test_no_secret_stands_in_the_configuration() -> None:
    text = ROUTES.read_text(encoding="utf-8")
    secret_settings = re.findall(
        r"^\s*(?:- )?\w*(?:password|api_url|credentials|secret|token)\w*: .*$", text, re.MULTILINE
    )
    assert all("_file: /etc/alertmanager/secrets/" in line for line in secret_settings)
    assert len(re.findall(r"/etc/alertmanager/secrets/\w+", text)) == 3
    assert "hooks.slack.com" not in text


def test_what_inhibition_names_are_parts_of_alerts() -> None:
    parts = {rule["labels"]["part"] for rule in alerts().values()}
    named = re.findall(r'part\s*=~?\s*"?([\w|]+)"?', ROUTES.read_text(encoding="utf-8"))
    assert {part for group in named for part in group.split("|")} <= parts
    assert PARTS_OF_ALL in named
    assert set(PARTS_OF_ALL.split("|")) == parts - {"all_workers", "dead_letters", "watchdog", "api", "capacity"}


# --- the copy that end-to-end tests run ---


def test_the_hurried_copy_is_the_rules_with_other_times_and_thresholds(promtool: str, tmp_path: Path) -> None:
    copy = hurried(tmp_path, {"> 0.85": "> 0.01"}, patience="2s", window="3s")
    run(promtool, "check", "rules", str(copy))
    shorter = {rule.get("alert"): rule for group in read_yaml(copy)["groups"] for rule in group["rules"]}
    assert shorter["SongsAiMemoryHigh"]["for"] == "2s"
    assert shorter["SongsAiMemoryHigh"]["expr"].endswith("> 0.01")
    assert "[3s]" in shorter["SongsAiDeadLettersRising"]["expr"]
    assert shorter.keys() - {None} == alerts().keys()
    with pytest.raises(AssertionError, match="nothing to replace"):
        hurried(tmp_path, {"> 4711": "> 1"})

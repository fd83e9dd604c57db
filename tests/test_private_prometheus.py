"""The Prometheus that other tests stand on, and the programs that may have to be installed first."""

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.programs import PACKAGES, Program, install_missing, program_or_skip
from tests.support.prometheus import Scraping, StartPrometheus


def test_it_scrapes_what_it_is_told_and_evaluates_its_rules(prometheus_server: StartPrometheus, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(
        '{"groups": [{"name": "g", "rules": [{"alert": "Gone", "expr": "up{job=\\"gone\\"} == 0"}]}]}', encoding="utf-8"
    )
    prometheus = prometheus_server(Scraping(targets={"gone": ["127.0.0.1:1"]}, rules=[rules]))
    assert prometheus.wait_for("up")[0].value == 0
    firing = prometheus.wait_for('ALERTS{alertstate="firing"}')
    assert firing[0].labels["alertname"] == "Gone"
    assert [alert["labels"]["job"] for alert in prometheus.alerts()] == ["gone"]
    assert math.isnan(prometheus.query("vector(0) / 0")[0].value)
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.query("sum(")
    with pytest.raises(TimeoutError, match="said"):
        prometheus.wait_for("nothing_of_this_name", within_s=0)


def test_what_it_is_told_is_a_configuration_that_promtool_accepts(promtool: str, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    told = Scraping(targets={"worker": ["a:1", "b:2"]}, alertmanagers=["c:3"], external_labels={"site": "test"})
    config.write_text(str(told.config()), encoding="utf-8")
    subprocess.run([promtool, "check", "config", str(config)], check=True, capture_output=True)


def test_each_missing_package_is_installed_once() -> None:
    installs: list[Sequence[str]] = []

    def install(packages: Sequence[str]) -> None:
        installs.append(packages)

    install_missing(list(Program), lambda _: None, find=lambda _: None, install=install)
    install_missing(list(Program), lambda _: None, find=str, install=install)
    assert installs == [sorted(set(PACKAGES.values()))]


def test_apt_s_complaint_is_said() -> None:
    said: list[str] = []
    install_missing([Program.PROMTOOL], said.append, find=lambda _: None, install=lambda _: "no network")
    assert "no network" in said[-1]


def test_without_its_program_a_test_skips_and_under_ci_fails() -> None:
    with pytest.raises(pytest.skip.Exception, match="apt-get install prometheus"):
        program_or_skip(Program.PROMTOOL, is_ci=False, find=lambda _: None)
    with pytest.raises(pytest.fail.Exception, match="CI is set"):
        program_or_skip(Program.PROMTOOL, is_ci=True, find=lambda _: None)
    assert program_or_skip(Program.PROMTOOL, is_ci=True, find=lambda name: f"/bin/{name}") == "/bin/promtool"

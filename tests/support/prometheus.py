"""A Prometheus of a test's own: a private process that scrapes what the test names, once a second."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.support.private_servers import PrivateServer
from tests.support.programs import Program, program_or_skip

INTERVAL = "1s"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One series of an answer, with its newest value (of a range query too)."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraping:
    """What a Prometheus is told: addresses (``host:port``) by job, rule files, alertmanagers."""

    targets: Mapping[str, Sequence[str]]
    rules: Sequence[Path] = ()
    alertmanagers: Sequence[str] = ()
    interval: str = INTERVAL
    external_labels: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The configuration file's content; JSON of it is YAML."""
        return {
            "global": {
                "scrape_interval": self.interval,
                "scrape_timeout": self.interval,
                "evaluation_interval": self.interval,
                "external_labels": dict(self.external_labels),
            },
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                for job, addresses in self.targets.items()
            ],
            "rule_files": [str(path) for path in self.rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(self.alertmanagers)}]}]},
        }


def prometheus_handshake(url: str) -> None:
    """It says of itself that it is ready to be asked."""
    urlopen(f"{url}/-/ready", timeout=2).close()  # noqa: S310 - a server of ours


class PrivatePrometheus(PrivateServer):
    """Prometheus on a free port, with a configuration and data of its own."""

    kind = "prometheus"
    handshake = staticmethod(prometheus_handshake)

    def __init__(self, program: str, scraping: Scraping) -> None:
        super().__init__()
        self._program, self._scraping = program, scraping

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def query(self, expression: str) -> list[Sample]:
        """What ``expression`` says now; raises ``AssertionError`` with Prometheus' complaint where it is refused."""
        return [
            Sample(labels=each["metric"], value=float(each["value"][1]))
            for each in self._ask("query", query=expression)["result"]
        ]

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing, as the API tells them."""
        return list(self._ask("alerts")["alerts"])

    def wait_for(
        self,
        expression: str,
        is_right: Callable[[Sequence[Sample]], object] = bool,
        *,
        within_s: float = 20.0,
    ) -> list[Sample]:
        """Ask until the answer ``is_right`` (holds anything, by default); raises ``TimeoutError`` with the last one."""
        deadline = time.monotonic() + within_s
        while not is_right(samples := self.query(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} said {samples} after {within_s:.0f} s")
            time.sleep(_POLL_S)
        return samples

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        # not httpx, whose every new client loads the machine's certificates: slower than all that is asked
        try:
            with urlopen(f"{self.url}/api/v1/{what}?{urlencode(parameters)}", timeout=10) as response:  # noqa: S310
                answer = json.load(response)
        except HTTPError as error:
            answer = json.load(error)
        assert answer["status"] == "success", f"{answer.get('error')}: {parameters}"
        data: dict[str, Any] = answer["data"]
        return data

    def _prepare(self) -> None:
        self._config.write_text(json.dumps(self._scraping.config()), encoding="utf-8")

    def _command(self) -> Sequence[str]:
        return [
            self._program,
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            # What fires before the alertmanagers are found is else sent to them a minute later.
            "--rules.alert.resend-delay=1s",
        ]

    @property
    def _config(self) -> Path:
        return self.directory / "prometheus.yml"


StartPrometheus = Callable[[Scraping], PrivatePrometheus]


@pytest.fixture
def prometheus_server() -> Iterator[StartPrometheus]:
    """Starts a Prometheus that scrapes what it is told; it ends with the test."""
    program = program_or_skip(Program.PROMETHEUS, is_ci=bool(os.environ.get("CI")))
    with ExitStack() as stack:

        def start(scraping: Scraping) -> PrivatePrometheus:
            server = PrivatePrometheus(program, scraping)
            stack.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def promtool() -> str:
    """The path of Prometheus' own checker of queries, rules and configuration."""
    return program_or_skip(Program.PROMTOOL, is_ci=bool(os.environ.get("CI")))

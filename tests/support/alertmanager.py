"""An Alertmanager of a test's own: a private process with the configuration that it is given."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.private_servers import PrivateServer
from tests.support.programs import Program, program_or_skip
from tests.support.prometheus import prometheus_handshake


class PrivateAlertmanager(PrivateServer):
    """Alertmanager on a free port, alone: it looks for no others to form a cluster with."""

    kind = "alertmanager"
    handshake = staticmethod(prometheus_handshake)

    def __init__(self, program: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._program, self._told = program, config

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are active, with ``status.inhibitedBy``."""
        answer: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts", timeout=10).raise_for_status().json()
        return answer

    def post(self, *alerts: Mapping[str, Any]) -> None:
        """As Prometheus does."""
        httpx.post(f"{self.url}/api/v2/alerts", json=list(alerts), timeout=10).raise_for_status()

    def _prepare(self) -> None:
        self._config.write_text(json.dumps(self._told), encoding="utf-8")

    def _command(self) -> Sequence[str]:
        return [
            self._program,
            f"--config.file={self._config}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    @property
    def _config(self) -> Path:
        return self.directory / "alertmanager.yml"


StartAlertmanager = Callable[[Mapping[str, Any]], PrivateAlertmanager]


@pytest.fixture
def alertmanager_server() -> Iterator[StartAlertmanager]:
    """Starts an Alertmanager with a configuration; it ends with the test."""
    program = program_or_skip(Program.ALERTMANAGER, is_ci=bool(os.environ.get("CI")))
    with ExitStack() as stack:

        def start(config: Mapping[str, Any]) -> PrivateAlertmanager:
            server = PrivateAlertmanager(program, config)
            stack.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def amtool() -> str:
    """The path of Alertmanager's own checker of configuration."""
    return program_or_skip(Program.AMTOOL, is_ci=bool(os.environ.get("CI")))

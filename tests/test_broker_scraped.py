"""RabbitMQ's own exporter, asked as ``prometheus.yml`` does: each queue by its name, also while no worker runs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import aio_pika
import pytest
import yaml

from tests.support.private_servers import PrivateRabbitMQ, free_port
from tests.support.waiting import until
from workers.topology import build_topology

ROOT = Path(__file__).parents[1]
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "prometheus.yml").read_text(encoding="utf-8"))
QUEUE = build_topology().main.queue


class ScrapedRabbitMQ(PrivateRabbitMQ):
    """A node with its exporter on a port of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics_port = free_port()

    def _prepare(self) -> None:
        super()._prepare()
        (self.directory / "plugins").write_text("[rabbitmq_prometheus].")
        # in milliseconds; by default a queue tells of itself every five seconds
        told = f"prometheus.tcp.port = {self.metrics_port}\nprometheus.tcp.ip = 127.0.0.1\n"
        (self.directory / "rabbitmq.conf").write_text(told + "collect_statistics_interval = 200\n")

    def scraped(self, job: str) -> list[str]:
        """The lines that Prometheus would read for that job."""
        [said] = [each for each in PROMETHEUS["scrape_configs"] if each["job_name"] == job]
        asked = urlencode(said.get("params", {}), doseq=True)
        url = f"http://127.0.0.1:{self.metrics_port}{said.get('metrics_path', '/metrics')}?{asked}"
        with urlopen(url, timeout=10) as response:
            text: str = response.read().decode()
        return text.splitlines()


@pytest.fixture(scope="module")
def node() -> Iterator[ScrapedRabbitMQ]:
    if not PrivateRabbitMQ.installed():
        pytest.skip("RabbitMQ is not installed")
    server = ScrapedRabbitMQ()
    try:
        server.start()
        yield server
    finally:
        server.close()


async def with_queue(url: str, *, n_messages: int = 0) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(QUEUE, durable=True)
        for _ in range(n_messages):
            await channel.default_exchange.publish(aio_pika.Message(b"{}"), routing_key=QUEUE)


def of_the_queue(node: ScrapedRabbitMQ) -> dict[str, float]:
    lines = [line for line in node.scraped("rabbitmq-queues") if f'queue="{QUEUE}"' in line]
    return {line.partition("{")[0]: float(line.split()[-1]) for line in lines}


async def test_prometheus_is_told_how_long_each_queue_is_and_who_consumes_it(node: ScrapedRabbitMQ) -> None:
    await with_queue(node.url, n_messages=3)

    async def is_told() -> bool:
        return of_the_queue(node).get("rabbitmq_detailed_queue_messages_ready") == 3

    await until(is_told)
    assert of_the_queue(node)["rabbitmq_detailed_queue_consumers"] == 0


def test_without_asking_for_detail_no_queue_has_a_name(node: ScrapedRabbitMQ) -> None:
    lines = node.scraped("rabbitmq")
    assert any(line.startswith("rabbitmq_queue_messages_ready ") for line in lines)
    assert not any("queue=" in line for line in lines)


@pytest.mark.parametrize("page", ["docs/metrics.md", "docs/operations.md"])
async def test_the_pages_name_series_that_are_scraped(page: str, node: ScrapedRabbitMQ) -> None:
    await with_queue(node.url)
    there = {re.split(r"[{ ]", line)[0] for job in ("rabbitmq", "rabbitmq-queues") for line in node.scraped(job)}
    named = set(re.findall(r"\brabbitmq_(?!prometheus)\w+", (ROOT / page).read_text(encoding="utf-8")))
    assert named
    assert named <= there

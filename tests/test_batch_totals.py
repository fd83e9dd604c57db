"""What batches came to is read from the books by every worker, for the process that ran them is gone by then."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from config.settings import Settings
from core.errors import ConfigurationError, DependencyUnavailable
from core.ports.batches import BatchTotals, BatchUsage
from services.batch_totals import watch_batch_totals
from services.metrics import PrometheusMetrics
from tests.support.batch_site import open_batch_site
from tests.support.llm_server import LLMServer
from tests.support.waiting import until
from workers.runtime.consuming import running_consumers
from workers.runtime.parts import embedded, open_parts

N_MEMBERS = 3


def totals(n: int) -> BatchTotals:
    return BatchTotals(BatchUsage(prompt_tokens=n), {"merged": n})


class Books:
    """Says one after the other of ``replies``, and the last one for ever."""

    def __init__(self, *replies: BatchTotals | Exception) -> None:
        self._replies = list(replies)

    async def totals(self) -> BatchTotals:
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


class Noticeboard:
    """Keeps all that it was told; ``enough`` is set at the ``n``-th time."""

    def __init__(self, n: int) -> None:
        self.told: list[BatchTotals] = []
        self.enough = asyncio.Event()
        self._n = n

    def batches_totalled(self, totals: BatchTotals) -> None:
        self.told.append(totals)
        if len(self.told) >= self._n:
            self.enough.set()


async def told(books: Any, n: int) -> list[BatchTotals]:
    board = Noticeboard(n)
    watch = asyncio.create_task(watch_batch_totals(books, board, interval_s=0.001))
    try:
        await asyncio.wait_for(board.enough.wait(), 5)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    return board.told[:n]


async def test_the_books_are_read_again_and_again() -> None:
    assert await told(Books(totals(1), totals(2), totals(3)), 3) == [totals(1), totals(2), totals(3)]


@pytest.mark.parametrize("error", [DependencyUnavailable("mysql", "away"), ConfigurationError("run `main.py migrate`")])
async def test_books_that_cannot_be_read_end_no_worker(error: Exception) -> None:
    with structlog.testing.capture_logs() as lines:
        assert await told(Books(totals(1), error, error, totals(2)), 2) == [totals(1), totals(2)]
    assert [line["event"] for line in lines] == ["dependency_check_failed"] * 2
    assert str(error) in lines[0]["error"]


def exposed(metrics: PrometheusMetrics) -> dict[str, float]:
    """The series of batches, by name and labels."""
    lines = metrics.expose("")[0].decode().splitlines()
    return {name: float(value) for name, value in (line.split(" ") for line in lines if line.startswith(SERIES))}


SERIES = "songs_ai_llm_batch"


async def test_workers_that_start_after_a_refresh_tell_of_it_and_all_of_them_the_same(
    llm_server: LLMServer, tmp_path: Path
) -> None:
    given = Settings(_env_file=None, openai_base_url=llm_server.base_url, default_locale="en", http_enabled=False)
    settings = embedded(given, tmp_path)
    url = settings.database_url.get_secret_value()
    async with open_batch_site(settings, llm_server, url, n_members=N_MEMBERS) as site:
        report = await site.run()
        assert exposed(site.parts.metrics) == {}
    seen = [await seen_by_a_worker(settings) for _ in range(2)]
    assert seen[0] == seen[1]
    assert seen[0][SERIES + '_requests_total{outcome="merged"}'] == N_MEMBERS
    assert seen[0][SERIES + '_tokens_total{kind="completion"}'] == report.usage.completion_tokens
    assert seen[0][SERIES + "_cost_usd_total"] == pytest.approx(report.usage.cost_usd, abs=1e-9)


async def seen_by_a_worker(settings: Settings) -> dict[str, float]:
    async with open_parts(settings) as parts:
        await parts.index.load()
        await parts.broker.start()
        async with running_consumers(parts):

            async def is_read() -> bool:
                return bool(exposed(parts.metrics))

            await until(is_read)
            return exposed(parts.metrics)

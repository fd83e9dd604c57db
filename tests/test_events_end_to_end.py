"""Events through a whole worker, as operations run it: what a listener sees after what they did."""

import time
from collections.abc import Sequence

import aio_pika
import orjson
import pytest

from core.event_codec import encode_event
from models.event import Event, EventType
from services.redis_client import open_redis
from tests.support.backend import job_body
from tests.support.llm_server import LLMServer
from tests.support.waiting import until
from tests.support.worker_process import worker
from tests.test_end_to_end import open_site

pytestmark = pytest.mark.timeout(120)

ME = 4242


def did(kind: EventType, item_id: int | None, number: int = 0) -> Event:
    now_ns = time.time_ns()
    return Event(
        event_id=f"{kind.value}-{item_id}-{number}-{now_ns}",
        member_id=ME,
        type=kind,
        item_id=item_id,
        occurred_at_ns=now_ns,
    )


async def publish(amqp_url: str, prefix: str, events: Sequence[Event]) -> None:
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(f"{prefix}.events.exchange")
        for event in events:
            message = aio_pika.Message(encode_event(event), delivery_mode=2, content_type="application/json")
            await exchange.publish(message, f"event.{event.type.value}")


async def test_a_dislike_and_a_burst_of_likes_and_an_end(
    amqp_url: str, mysql_url: str, redis_url: str, llm_server: LLMServer
) -> None:
    async with (
        open_site(amqp_url, mysql_url, redis_url, llm_server, REFRESH_QUIET_S="0.5") as site,
        open_redis(redis_url, max_connections=5, timeout_s=5) as redis,
        worker(site.environment) as process,
    ):

        async def view() -> dict[str, object]:
            return dict(orjson.loads(await redis.get(f"recommend:{ME}") or b"{}"))

        async def shown() -> set[int]:
            found = await view()
            rows = found.get("candidates", [])
            assert isinstance(rows, list)
            return {row["song_id"] for row in rows}

        [job_id] = await site.backend.publish([job_body(ME, [3, 4, 5])])
        await site.backend.wait([job_id], 30, until={"succeeded"})
        refused = min(await shown())
        first = (await view())["fingerprint"]

        await publish(site.amqp_url, site.prefix, [did(EventType.DISLIKE, refused)])

        async def is_gone() -> bool:
            return refused not in await shown()

        await until(is_gone, within_s=20)
        assert await shown()

        async def is_new() -> bool:
            return (await view()).get("fingerprint") not in (None, first)

        await until(is_new, within_s=30)
        assert refused not in await shown()

        likes = [did(EventType.LIKE, item_id, item_id) for item_id in (10, 11, 12, 13, 14, 15)]
        await publish(site.amqp_url, site.prefix, likes)

        async def are_counted() -> bool:
            return 'songs_ai_requested_refreshes_total{outcome="published"} 2.0' in await process.metrics()

        await until(are_counted, within_s=30)

        async def are_left_out() -> bool:
            return not {10, 11, 12, 13, 14, 15} & await shown()

        await until(are_left_out, within_s=30)
        assert 'songs_ai_requested_refreshes_total{outcome="published"} 2.0' in await process.metrics()

        await publish(site.amqp_url, site.prefix, [did(EventType.FORGET, None)])

        async def is_forgotten() -> bool:
            return not await redis.exists(f"recommend:{ME}", f"latest:recommendation:{ME}", f"preference:{ME}")

        await until(is_forgotten, within_s=20)

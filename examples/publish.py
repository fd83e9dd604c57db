"""Publishes a job and an event as the backend does, by aio-pika: `python publish.py [amqp://...] [prefix]`.

The exchanges and queues are there once a worker has started. Publisher confirms, and messages that no queue would
take, are waited for: what this program has printed is safe.
"""

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime

import aio_pika
from aio_pika import DeliveryMode, Message


def _message(document: dict[str, object]) -> Message:
    return Message(
        json.dumps(document, ensure_ascii=False).encode(),
        content_type="application/json",
        content_encoding="UTF-8",
        delivery_mode=DeliveryMode.PERSISTENT,
    )


async def publish(url: str, prefix: str = "rec") -> str:
    """Publish one of each; the id of the job."""
    job_id, now = str(uuid.uuid4()), datetime.now(UTC).isoformat().replace("+00:00", "Z")
    job: dict[str, object] = {
        "jobId": job_id,
        "memberId": 7,
        "favoriteSongIds": [1, 2, 3],
        "strategy": "default",
        "topK": 50,
        "locale": "en",
        "source": "manual",
        "requestedAt": now,
        "attempt": 0,
    }
    event: dict[str, object] = {
        "eventId": str(uuid.uuid4()),
        "memberId": 7,
        "songId": 3,
        "type": "like",
        "occurredAt": now,
    }
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        jobs = await channel.get_exchange(f"{prefix}.exchange")
        await jobs.publish(_message(job), "recommendation.generate", mandatory=True)
        events = await channel.get_exchange(f"{prefix}.events.exchange")
        await events.publish(_message(event), "event.like", mandatory=True)
    return job_id


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@127.0.0.1:5672/"
    print(asyncio.run(publish(address, sys.argv[2] if len(sys.argv) > 2 else "rec")))  # noqa: T201, PLR2004

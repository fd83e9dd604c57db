"""The HTTP below the chat API: one pool of connections, and no more read of an answer than an answer can be."""

from collections.abc import AsyncIterator
from typing import cast

import openai
from httpx2 import AsyncByteStream, DecodingError, Limits, Response
from pydantic import SecretStr

from services.llm_failures import AnswerTooLong

_KEEPALIVE_S = 30.0
_MAX_BODY_BYTES = 512 * 1024
# Each token of a stream comes in some 300 bytes of its own: room for more than ten thousand.
_MAX_STREAM_BYTES = 4 * 1024 * 1024


def open_transport(
    *, max_concurrency: int, api_key: SecretStr, api_version: str, streaming: bool
) -> openai.DefaultAioHttpClient:
    """A client that reads 512 KiB of a body, or 4 MiB of a stream, and then raises ``AnswerTooLong``.

    Bodies are asked for, and taken, as they are: of a compressed one a few bytes may be gigabytes.
    """
    max_bytes = _MAX_STREAM_BYTES if streaming else _MAX_BODY_BYTES

    async def limit(response: Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DecodingError("the body is compressed, which was not asked for", request=response.request)
        response.stream = _Limited(cast("AsyncByteStream", response.stream), max_bytes)

    headers = {"Accept-Encoding": "identity"}
    if api_version:
        headers["api-key"] = api_key.get_secret_value()
    return openai.DefaultAioHttpClient(
        limits=Limits(
            max_connections=max_concurrency, max_keepalive_connections=max_concurrency, keepalive_expiry=_KEEPALIVE_S
        ),
        headers=headers,
        params={"api-version": api_version} if api_version else None,
        event_hooks={"response": [limit]},
    )


class _Limited(AsyncByteStream):
    def __init__(self, stream: AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        n_bytes = 0
        async for chunk in self._stream:
            n_bytes += len(chunk)
            if n_bytes > self._max_bytes:
                raise AnswerTooLong(f"more than {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()

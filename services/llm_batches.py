"""Batches over OpenAI's Batch API, by its SDK: files of requests up, files of answers down, at a lower price.

https://developers.openai.com/api/docs/guides/batch. Uploading and creating are never retried here: an answer that is
lost leaves something behind that has to be looked for first.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import openai
from langchain_core.messages import AIMessage
from openai.types import Batch
from pydantic import SecretStr

from config.token_price import TokenPrice
from core.errors import ConfigurationError, DependencyUnavailable, LanguageModelFailed
from core.ports.batches import BatchReply, BatchState
from core.ports.language_model import Completion, Prompt
from services.llm_answer import Heard
from services.llm_dialect import Dialect, Method
from services.llm_failures import AnswerTooLong
from services.openai_endpoint import NO_KEY, endpoint

MARK = "songs_ai_part"
LOST = "lost"

_URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
_NOT_THERE = 404
_NO_SUCH_API = frozenset({404, 405, 501})
# The whole of a file of 200 MB.
_TRANSFER_S = 1800.0
_PAGE = 100
_CLOCKS_DIFFER_S = 3600


class OpenAIBatches:
    """A ``BatchApi``; opens connections when it is first asked.

    ``price_factor`` is what a token costs in a batch against ``price``, that of a call; None: unknown, and so 0.
    ``structured_output`` ``auto`` means ``json_schema``: a batch is no place to find out what a server takes.
    """

    def __init__(
        self,
        *,
        model: str,
        api_key: SecretStr,
        base_url: str,
        price: TokenPrice | None,
        price_factor: float,
        structured_output: Method | Literal["auto"] = "auto",
        temperature: float | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._model = model
        self._price, self._price_factor = price, price_factor
        self._dialect = Dialect() if structured_output == "auto" else Dialect(method=structured_output)
        self._temperature = temperature
        self._client = openai.AsyncOpenAI(
            api_key=api_key.get_secret_value() or NO_KEY,
            base_url=endpoint(base_url, model),
            timeout=timeout_s,
            http_client=openai.DefaultAioHttpClient(timeout=timeout_s),
        )
        self._once = self._client.with_options(max_retries=0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def line(self, custom_id: str, prompt: Prompt) -> bytes:
        """See ``BatchApi.line``: the body is that of a call of its own."""
        messages = [
            {"role": "system", "content": self._dialect.system(prompt)},
            {"role": "user", "content": prompt.user},
        ]
        body = {"model": self._model, "messages": messages, **self._dialect.parameters(prompt, self._temperature)}
        request = {"custom_id": custom_id, "method": "POST", "url": _URL, "body": body}
        return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def max_cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a request of so many tokens costs in a batch, where nothing is in the provider's cache."""
        if self._price is None:
            return 0.0
        return self._price_factor * self._price.cost_usd(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )

    async def check(self) -> None:
        """See ``BatchApi.check``."""
        try:
            await self._client.batches.list(limit=1)
        except openai.APIStatusError as error:
            if error.status_code in _NO_SUCH_API:
                problem = f"GET /batches answers {error.status_code}"
                raise ConfigurationError(f"OPENAI_BASE_URL: the server has no Batch API ({problem})") from error
            raise _unavailable(error) from error
        except (openai.OpenAIError, ValueError) as error:
            raise _unavailable(error) from error

    async def find_file(self, name: str) -> str | None:
        """See ``BatchApi.find_file``; a server that lists no files has none."""
        try:
            with _errors():
                async for file in self._client.files.list(purpose="batch", order="desc", limit=_PAGE):
                    if file.filename == name:
                        return file.id
        except _NotThere:
            return None
        return None

    async def upload(self, name: str, path: Path) -> str:
        """See ``BatchApi.upload``."""
        # An open file is read as it is sent; bytes would be in memory three times over.
        with await asyncio.to_thread(path.open, "rb") as content, _errors():
            file = await self._once.files.create(file=(name, content), purpose="batch", timeout=_TRANSFER_S)
        return file.id

    async def find(self, mark: str, since: datetime) -> BatchState | None:
        """See ``BatchApi.find``; the newest come first."""
        with _errors():
            async for batch in self._client.batches.list(limit=_PAGE):
                if (batch.metadata or {}).get(MARK) == mark:
                    return _state(batch)
                if batch.created_at < since.timestamp() - _CLOCKS_DIFFER_S:
                    return None
        return None

    async def create(self, file_id: str, mark: str) -> BatchState:
        """See ``BatchApi.create``."""
        with _errors():
            batch = await self._once.batches.create(
                completion_window="24h", endpoint=_URL, input_file_id=file_id, metadata={MARK: mark}
            )
        return _state(batch)

    async def look(self, batch_id: str) -> BatchState:
        """See ``BatchApi.look``."""
        try:
            with _errors():
                return _state(await self._client.batches.retrieve(batch_id))
        except _NotThere:
            return BatchState(batch_id=batch_id, status=LOST, has_ended=True)

    async def cancel(self, batch_id: str) -> None:
        """See ``BatchApi.cancel``."""
        try:
            await self._client.batches.cancel(batch_id)
        except openai.ConflictError:
            return
        except (openai.OpenAIError, ValueError) as error:
            raise _unavailable(error) from error

    async def replies(self, state: BatchState) -> AsyncIterator[BatchReply]:
        """See ``BatchApi.replies``; a line that nobody can read is left out."""
        for file_id in state.file_ids:
            async for line in self._lines(file_id):
                if (reply := self._read(line)) is not None:
                    yield reply

    async def delete_file(self, file_id: str) -> None:
        """See ``BatchApi.delete_file``."""
        try:
            with _errors():
                await self._client.files.delete(file_id)
        except _NotThere:
            return

    async def _lines(self, file_id: str) -> AsyncIterator[bytes]:
        # By bytes: what calls itself ``iter_lines`` also splits at U+2028, which may stand within a string of JSON.
        rest = b""
        try:
            with _errors():
                streaming = self._client.files.with_streaming_response
                async with streaming.content(file_id, timeout=_TRANSFER_S) as response:
                    async for chunk in response.iter_bytes():
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            yield line
        except _NotThere:
            return
        yield rest

    def _read(self, line: bytes) -> BatchReply | None:
        try:
            said = json.loads(line)
            custom_id = str(said["custom_id"])
        except (ValueError, TypeError, KeyError):
            return None
        return BatchReply(custom_id, self._priced(_end(said, self._model)))

    def _priced(self, end: Completion | LanguageModelFailed) -> Completion | LanguageModelFailed:
        cost_usd = self._cost_usd(end)
        if isinstance(end, LanguageModelFailed):
            end.cost_usd = cost_usd
            return end
        return replace(end, cost_usd=cost_usd)

    def _cost_usd(self, end: Completion | LanguageModelFailed) -> float | None:
        """None where tokens were used and their price is not known."""
        if self._price is None:
            return None if end.prompt_tokens + end.completion_tokens else 0.0
        return self._price_factor * self._price.cost_usd(
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            cached_tokens=end.cached_tokens,
        )


class _NotThere(DependencyUnavailable):
    """The provider knows no such file or batch."""


@contextmanager
def _errors() -> Iterator[None]:
    """Raise the SDK's errors as ours."""
    try:
        yield
    except (openai.OpenAIError, ValueError) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> DependencyUnavailable:
    if not isinstance(error, openai.APIStatusError):
        return DependencyUnavailable("batches", type(error).__name__)
    # The server's sentence may quote the key that it refuses; its code does not.
    problem = f"HTTP status {error.status_code}" + (f" ({error.code})" if error.code else "")
    return (_NotThere if error.status_code == _NOT_THERE else DependencyUnavailable)("batches", problem)


def _state(batch: Batch) -> BatchState:
    counts, errors = batch.request_counts, (batch.errors.data or []) if batch.errors else []
    return BatchState(
        batch_id=batch.id,
        status=batch.status,
        has_ended=batch.status in _ENDED,
        n_done=counts.completed + counts.failed if counts else 0,
        n_total=counts.total if counts else 0,
        file_ids=tuple(file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id),
        problem=", ".join(dict.fromkeys(error.code for error in errors if error.code)),
    )


# --- one answer ---


def _end(said: Mapping[str, Any], model: str) -> Completion | LanguageModelFailed:
    """How the request of one line ended; whatever the line holds, it is one of the two."""
    try:
        response = said["response"] or {}
        if said.get("error") or response.get("status_code") != 200:  # noqa: PLR2004 - as the guide has it
            return LanguageModelFailed("unavailable", f"status {response.get('status_code')} in a batch")
        heard = Heard()
        heard.begin()
        heard.add(_message(response["body"]))
        return heard.completion(model)
    except LanguageModelFailed as failure:
        return failure
    except (LookupError, TypeError, ValueError, AttributeError, AnswerTooLong) as error:
        return LanguageModelFailed("malformed", type(error).__name__)


def _message(body: Mapping[str, Any]) -> AIMessage:
    """A chat completion's JSON as LangChain would read it, but for what a function is called with: that stays text."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    message = choice["message"]
    calls = message.get("tool_calls") or []
    prompt_tokens, completion_tokens = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    details = usage.get("prompt_tokens_details") or {}
    return AIMessage(
        content=(calls[0]["function"]["arguments"] if calls else message.get("content")) or "",
        additional_kwargs={"refusal": message.get("refusal")},
        response_metadata={"finish_reason": choice.get("finish_reason")},
        usage_metadata={
            "input_tokens": prompt_tokens,
            "output_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "input_token_details": {"cache_read": details.get("cached_tokens") or 0},
        },
    )

"""Chat over any OpenAI-compatible HTTP API, by LangChain.

The response format is sent as ``extra_body``: the request is that of ``with_structured_output``, but neither the SDK
nor LangChain parses the answer, for ``core/reranking.py`` validates it anyway. With the aiohttp transport, a call takes
0.37 times the CPU time (``docs/benchmarks.md``).
"""

import asyncio
import random
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import openai
import structlog
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from langsmith import tracing_context
from pydantic import SecretStr

from core.errors import LanguageModelFailed
from core.observing import unfailing
from core.ports.clock import Clock
from core.ports.language_model import CallUse, Completion, Prompt
from core.ports.observing import Observer
from models.log_event import LogEvent
from services.llm_answer import Heard
from services.llm_dialect import Dialect, Method, refused_part
from services.llm_failures import may_be_paid, may_be_retried, named, no_access, retry_after_s
from services.llm_transport import open_transport
from services.openai_endpoint import NO_KEY, endpoint

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0

log = structlog.get_logger()


class OpenAILanguageModel:
    """A ``LanguageModel`` behind an OpenAI-compatible server; opens connections when it is first asked.

    One call, with the client's retries and whatever the server asks to wait, takes ``timeout_s`` at the most; it has
    ``max_concurrency`` connections, for which who makes more calls at once waits within that time. Without a key a
    placeholder is sent, for servers that want none. Parts of the request that the server refuses are left out from then
    on; the ``structured_output`` only where that is ``auto``. ``{model}`` in ``base_url`` stands for the model's name.
    With an ``api_version`` (Azure), that is sent with every request and the key as ``api-key``. Each request has what
    ``headers`` returns beside its own.
    """

    def __init__(
        self,
        *,
        model: str,
        deep_model: str,
        api_key: SecretStr,
        base_url: str,
        timeout_s: float,
        max_retries: int,
        max_concurrency: int,
        observer: Observer,
        clock: Clock,
        structured_output: Method | Literal["auto"] = "auto",
        streaming: bool = False,
        temperature: float | None = None,
        api_version: str = "",
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._names = {False: model, True: deep_model}
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._observer = observer
        self._clock = clock
        self._streaming = streaming
        self._temperature = temperature
        self._headers = headers
        self._may_step_down = structured_output == "auto"
        first = Dialect() if structured_output == "auto" else Dialect(method=structured_output)
        self._dialects = dict.fromkeys(self._names.values(), first)
        self._without_access: set[str] = set()
        self._http = open_transport(
            max_concurrency=max_concurrency, api_key=api_key, api_version=api_version, streaming=streaming
        )
        self._chats = {name: _chat(name, api_key, base_url, self._http) for name in self._names.values()}

    def name(self, *, deep: bool) -> str:
        """The model that ``complete`` would ask."""
        return self._names[deep]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def complete(
        self, prompt: Prompt, *, deep: bool = False, within_s: float | None = None, use: CallUse | None = None
    ) -> Completion:
        """The answer, by the contract of ``core.ports.TimedLanguageModel``. Each call is counted, failed ones too."""
        heard, name = Heard(use or CallUse()), self._names[deep]
        timeout_s = min(self._timeout_s, within_s or self._timeout_s)
        with self._counted(name, heard):
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ask(prompt, name, heard, timeout_s)
                return heard.completion(name)
            except TimeoutError as error:
                raise heard.failure("timeout", f"no answer within {timeout_s:.3g} s") from error
            except LanguageModelFailed:
                raise
            except Exception as error:
                # What names failures reads what the server said, too: none of that may fail a job.
                log.error(  # noqa: TRY400 - a traceback holds what the server said
                    LogEvent.UNEXPECTED_ERROR_CAUGHT, part="language_model", error=type(error).__name__
                )
                raise heard.failure("malformed", type(error).__name__) from error

    async def _ask(self, prompt: Prompt, name: str, heard: Heard, timeout_s: float) -> None:
        """Fill ``heard``, with as many requests as that takes; raises the first failure that no further one mends."""
        course = _Course(self._dialects[name], asyncio.get_running_loop().time() + timeout_s)
        while True:
            heard.begin()
            try:
                await self._request(prompt, name, course.dialect, heard)
            except Exception as error:
                # The boundary to a server that may say anything: none of it may fail a job.
                if heard.is_finished:  # what came after the end of the answer does not matter
                    return
                is_adapted = self._adapted(error, course)
                if is_adapted or not may_be_paid(error):
                    heard.unpaid()
                if not (is_adapted or await self._waited(error, course)):
                    raise self._named(error, name, heard) from error
            else:
                self._learnt(name, course.dialect)
                return

    async def _request(self, prompt: Prompt, name: str, dialect: Dialect, heard: Heard) -> None:
        messages: list[BaseMessage] = [SystemMessage(dialect.system(prompt)), HumanMessage(prompt.user)]
        body, headers = dialect.parameters(prompt, self._temperature), self._headers()
        with tracing_context(enabled=False):
            if not self._streaming:
                heard.add(await self._chats[name].ainvoke(messages, extra_body=body, extra_headers=headers))
                return
            chat = self._chats[name]
            stream = chat.astream(messages, extra_body=body, extra_headers=headers, stream_usage=dialect.stream_usage)
            async with aclosing(cast("AsyncGenerator[AIMessageChunk]", stream)):
                async for chunk in stream:
                    heard.add(chunk)

    def _adapted(self, error: Exception, course: "_Course") -> bool:
        """Whether to ask again at once, without a part of the request that the endpoint refused."""
        part = refused_part(error, course.dialect) if isinstance(error, openai.APIStatusError) else None
        if part is None or (part == "response_format" and not self._may_step_down):
            return False
        course.tried.add(course.dialect)
        course.dialect = course.dialect.without(part)
        if course.dialect in course.tried:
            return False
        self._retried(part)
        return True

    def _learnt(self, name: str, dialect: Dialect) -> None:
        """Remember what the endpoint took: only that it answers tells a refusal from other trouble."""
        self._without_access.discard(name)
        if dialect != self._dialects[name]:
            self._dialects[name] = dialect
            log.warning(
                LogEvent.LLM_REQUEST_ADAPTED,
                model=name,
                method=dialect.method,
                length_limit=dialect.length_limit,
                temperature=dialect.temperature,
                stream_usage=dialect.stream_usage,
            )

    async def _waited(self, error: Exception, course: "_Course") -> bool:
        """Whether to ask again, after the wait that the server asks for, or else a rising one of chance."""
        if course.n_waits == self._max_retries or not may_be_retried(error):
            return False
        ceiling_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**course.n_waits)
        told_s = retry_after_s(error, self._clock.now())
        wait_s = told_s or ceiling_s * random.uniform(0.75, 1)
        if asyncio.get_running_loop().time() + wait_s >= course.deadline_s:
            return False
        course.n_waits += 1
        self._retried(named(error).reason)
        await asyncio.sleep(wait_s)
        return True

    def _named(self, error: Exception, name: str, heard: Heard) -> LanguageModelFailed:
        """``error`` by its name, with what had come; that there is no access is logged once until there is."""
        if (status := no_access(error)) is not None and name not in self._without_access:
            self._without_access.add(name)
            log.error(LogEvent.LLM_ACCESS_REFUSED, model=name, status=status, settings="OPENAI_API_KEY, LLM_STRATEGIES")
        return heard.failure(*named(error))

    @contextmanager
    def _counted(self, name: str, heard: Heard) -> Iterator[None]:
        """Counts the call by how the block ends."""
        started_s = self._clock.monotonic_s()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except LanguageModelFailed as failure:
            outcome = failure.reason
            raise
        finally:
            with unfailing():
                self._observer.llm_call(
                    model=name,
                    outcome=outcome,
                    seconds=self._clock.monotonic_s() - started_s,
                    prompt_tokens=heard.use.prompt_tokens,
                    completion_tokens=heard.use.completion_tokens,
                    cached_tokens=heard.use.cached_tokens,
                )

    def _retried(self, cause: str) -> None:
        with unfailing():
            self._observer.llm_retried(cause)


@dataclass(slots=True)
class _Course:
    """How far one call has come: in which dialect it asks, and those that were refused."""

    dialect: Dialect
    deadline_s: float
    tried: set[Dialect] = field(default_factory=set)
    n_waits: int = 0


class _Chat(ChatOpenAI):
    """LangChain's chat model, which leaves the words of a refusal out of streams (1.7)."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generated = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices")
        delta = choices[0].get("delta") if choices else None
        if generated is not None and delta and delta.get("refusal"):
            generated.message.additional_kwargs["refusal"] = delta["refusal"]
        return generated


def _chat(name: str, api_key: SecretStr, base_url: str, http: openai.DefaultAioHttpClient) -> ChatOpenAI:
    # LangChain prints advice about ``with_structured_output``, which is not used here.
    warnings.filterwarnings("ignore", r"(This model does not support|Invalid schema for) OpenAI's structured output")
    return _Chat(
        model=name,
        api_key=api_key if api_key.get_secret_value() else SecretStr(NO_KEY),
        base_url=endpoint(base_url, name),
        timeout=None,
        max_retries=0,
        temperature=None,
        use_responses_api=False,
        stream_chunk_timeout=None,
        http_async_client=http,
    )

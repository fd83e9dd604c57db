"""Chat over any OpenAI-compatible HTTP API, by LangChain.

The response format is bound as ``extra_body``: the request is that of ``with_structured_output``, but neither the SDK
nor LangChain parses the answer, for ``core/reranking.py`` validates it anyway. With the aiohttp transport, a call takes
about 0.4 times the CPU time.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import aiohttp
import httpx2
import openai
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from langsmith import tracing_context
from pydantic import SecretStr

from core.errors import LanguageModelFailed
from core.observing import unfailing
from core.ports import Clock, Completion, Observer, Prompt

OPENAI_URL = "https://api.openai.com/v1"

_NO_KEY = SecretStr("none")
_KEEPALIVE_S = 30.0
_MAX_TOKENS = 2**53
_deadline_s: ContextVar[float] = ContextVar("deadline_s")

_Chat = Runnable[LanguageModelInput, AIMessage]


class OpenAILanguageModel:
    """A ``LanguageModel`` behind an OpenAI-compatible server; opens connections when it is first asked.

    One call, with the client's retries and whatever the server asks to wait, takes ``timeout_s`` at the most; beyond
    ``max_concurrency`` calls under way, further ones queue before their time begins. Without a key a placeholder is
    sent, for servers that want none.
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
    ) -> None:
        self._names = {False: model, True: deep_model}
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(max_concurrency)
        self._observer = observer
        self._clock = clock
        self._http = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(
                max_connections=max_concurrency,
                max_keepalive_connections=max_concurrency,
                keepalive_expiry=_KEEPALIVE_S,
            ),
            event_hooks={"response": [_refuse_long_waits]},
        )
        self._models = {
            deep: ChatOpenAI(
                model=name,
                api_key=api_key if api_key.get_secret_value() else _NO_KEY,
                base_url=base_url or OPENAI_URL,
                timeout=None,
                max_retries=max_retries,
                use_responses_api=False,
                http_async_client=self._http,
            )
            for deep, name in self._names.items()
        }
        self._chats: dict[tuple[bool, str], _Chat] = {}

    def name(self, *, deep: bool) -> str:
        """The model that ``complete`` would ask."""
        return self._names[deep]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        """The answer, by the contract of ``core.ports.LanguageModel``. Each call is counted, the failed ones too."""
        async with self._slots:
            with self._counted() as spent:
                message = await self._ask(prompt, deep=deep)
                spent.count(message)
                return _completion(message, spent, self._names[deep])

    async def _ask(self, prompt: Prompt, *, deep: bool) -> AIMessage:
        messages = [SystemMessage(prompt.system), HumanMessage(prompt.user)]
        loop = asyncio.get_running_loop()
        deadline = _deadline_s.set(loop.time() + self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                with tracing_context(enabled=False):
                    return await self._chat(prompt, deep=deep).ainvoke(messages, max_tokens=prompt.max_output_tokens)
        except TimeoutError as error:
            raise LanguageModelFailed("timeout", f"no answer within {self._timeout_s:g} s") from error
        finally:
            _deadline_s.reset(deadline)

    def _chat(self, prompt: Prompt, *, deep: bool) -> _Chat:
        """The model bound to the response format of ``prompt``; a schema's name stands for one schema."""
        key = (deep, prompt.schema_name)
        if key not in self._chats:
            schema = {"name": prompt.schema_name, "schema": dict(prompt.schema), "strict": True}
            response_format = {"type": "json_schema", "json_schema": schema}
            self._chats[key] = self._models[deep].bind(extra_body={"response_format": response_format})
        return self._chats[key]

    @contextmanager
    def _counted(self) -> Iterator["_Spent"]:
        """Gives every failure of the block its name, and counts the call by it."""
        spent, started_s = _Spent(), self._clock.monotonic_s()
        try:
            with _named_failures():
                yield spent
        except LanguageModelFailed as failure:
            self._count(failure.reason, spent, started_s)
            raise
        except asyncio.CancelledError:
            self._count("cancelled", spent, started_s)
            raise
        self._count("ok", spent, started_s)

    def _count(self, outcome: str, spent: "_Spent", started_s: float) -> None:
        with unfailing():
            self._observer.llm_call(
                outcome=outcome,
                seconds=self._clock.monotonic_s() - started_s,
                prompt_tokens=spent.prompt_tokens,
                completion_tokens=spent.completion_tokens,
            )


@dataclass(slots=True)
class _Spent:
    """The tokens of one call, paid for whether or not its answer is usable."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count(self, message: AIMessage) -> None:
        usage = message.usage_metadata
        if usage is not None:
            self.prompt_tokens, self.completion_tokens = _tokens(usage["input_tokens"]), _tokens(usage["output_tokens"])


def _tokens(said: object) -> int:
    """From 0 to 2**53, which every reader of JSON takes; LangChain hands on whatever the server ``said``."""
    # In this order of its arguments ``max`` makes 0 of what is not a number (NaN).
    return int(min(max(0, said), _MAX_TOKENS)) if isinstance(said, int | float) else 0


async def _refuse_long_waits(response: httpx2.Response) -> None:
    """Tell the SDK not to begin a wait that would outlast the call's deadline, through the header that it obeys."""
    remaining_s = _deadline_s.get() - asyncio.get_running_loop().time()
    if _retry_after_s(response.headers.get("retry-after", "")) > remaining_s:
        response.headers["x-should-retry"] = "false"


def _retry_after_s(header: str) -> float:
    """Seconds that a Retry-After (RFC 9110, section 10.2.3) given as a number asks for; 0 for a date or nothing."""
    try:
        return float(header)
    except ValueError:
        return 0.0


@contextmanager
def _named_failures() -> Iterator[None]:
    """Turns what the client raises into ``LanguageModelFailed``; messages stay out of it, for they may hold prompts."""
    try:
        yield
    except LanguageModelFailed:
        raise
    except openai.RateLimitError as error:
        raise LanguageModelFailed("rate_limited", f"status {error.status_code}") from error
    except openai.BadRequestError as error:
        reason = "refused" if error.code == "content_filter" else "unavailable"
        raise LanguageModelFailed(reason, f"status {error.status_code}, code {error.code}") from error
    except openai.APIStatusError as error:
        raise LanguageModelFailed("unavailable", f"status {error.status_code}") from error
    except (openai.OpenAIError, aiohttp.ClientError) as error:
        # The SDK's transport lets some of aiohttp's own through: what is not HTTP, too long a header.
        raise LanguageModelFailed("unavailable", type(error).__name__) from error
    except Exception as error:
        # The boundary to a server that may say anything: the SDK and LangChain trip over a body that is no chat
        # completion in as many ways as there are such bodies, and none of them may fail a job.
        raise LanguageModelFailed("malformed", type(error).__name__) from error


def _completion(message: AIMessage, spent: _Spent, model: str) -> Completion:
    text, finish_reason = str(message.text), message.response_metadata.get("finish_reason")
    if message.additional_kwargs.get("refusal") or finish_reason == "content_filter":
        raise LanguageModelFailed("refused", f"finish_reason {finish_reason}")
    if finish_reason == "length":
        raise LanguageModelFailed("truncated", f"{spent.completion_tokens} tokens", partial_text=text or None)
    if not text:
        raise LanguageModelFailed("malformed", "empty content")
    return Completion(
        text=text,
        model=model,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
    )

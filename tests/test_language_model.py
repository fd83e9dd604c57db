"""The LangChain adapter against a real HTTP server: what it sends, and what becomes of every fault."""

import asyncio
import json
import logging
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal

import httpx2
import openai
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.errors import LANGUAGE_MODEL_FAILURES, LanguageModelFailed
from core.json_salvage import read_object
from core.ports.language_model import CallUse, Prompt
from core.prompting import build_prompt
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from services.llm_dialect import METHODS, Dialect, Method, refused_part
from services.llm_failures import may_be_paid, may_be_retried, named, retry_after_s
from tests.support.builders import make_candidate, make_item
from tests.support.llm_endpoint import Endpoint, Part
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer
from tests.support.scripted_language_model import RecordingObserver

KEY = "sk-test-of-the-secret-key"

Opener = Callable[..., AbstractAsyncContextManager[OpenAILanguageModel]]


def question(n_candidates: int = 20, n_picks: int = 5) -> Prompt:
    prompt, _ = build_prompt(
        [make_candidate(make_item(number)) for number in range(n_candidates)],
        [make_item(1000)],
        locale="en",
        profile=load_profile("songs"),
        texts=load_prompt_texts(),
        n_picks=n_picks,
    )
    return prompt


QUESTION = question()


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def open_model(llm_server: LLMServer, observer: RecordingObserver) -> Opener:
    @asynccontextmanager
    async def opener(
        *,
        key: str = KEY,
        timeout_s: float = 10.0,
        max_retries: int = 0,
        max_concurrency: int = 64,
        base_url: str = "",
        structured_output: Method | Literal["auto"] = "auto",
        streaming: bool = False,
        temperature: float | None = None,
        api_version: str = "",
    ) -> AsyncIterator[OpenAILanguageModel]:
        model = OpenAILanguageModel(
            model="small",
            deep_model="large",
            api_key=SecretStr(key),
            base_url=base_url or llm_server.base_url,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
            structured_output=structured_output,
            streaming=streaming,
            temperature=temperature,
            api_version=api_version,
            observer=observer,
            clock=SystemClock(),
        )
        try:
            yield model
        finally:
            await model.aclose()

    return opener


@pytest.fixture
async def model(open_model: Opener) -> AsyncIterator[OpenAILanguageModel]:
    async with open_model() as opened:
        yield opened


# --- what is asked and answered ---


async def test_an_answer_comes_back_as_json_text_with_its_cost(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    async with open_model() as model:
        completion = await model.complete(question())
    assert set(json.loads(completion.text)) == {"taste", "groups"}
    assert (completion.prompt_tokens, completion.completion_tokens) == (
        llm_server.stats.prompt_tokens,
        llm_server.stats.completion_tokens,
    )
    assert completion.completion_tokens > 0
    assert observer.calls == [("ok", completion.prompt_tokens, completion.completion_tokens)]


async def test_the_request_holds_the_prompt_its_ceiling_and_a_strict_schema(
    open_model: Opener, llm_server: LLMServer
) -> None:
    prompt = question()
    async with open_model() as model:
        await model.complete(prompt)
    body = llm_server.requests[0]
    assert body["messages"] == [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": prompt.user},
    ]
    assert body["max_completion_tokens"] == prompt.max_output_tokens
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": prompt.schema_name, "schema": prompt.schema, "strict": True},
    }
    assert not body.get("stream")


async def test_the_response_format_is_the_one_of_structured_output(open_model: Opener, llm_server: LLMServer) -> None:
    prompt = question()
    schema = {"name": prompt.schema_name, "schema": prompt.schema, "strict": True}
    async with open_model() as model, openai.DefaultAioHttpClient() as http:
        await model.complete(prompt)
        chat = ChatOpenAI(model="small", api_key=SecretStr(KEY), base_url=llm_server.base_url, http_async_client=http)
        await chat.with_structured_output(schema, method="json_schema").ainvoke(
            [("system", prompt.system), ("user", prompt.user)]
        )
    ours, theirs = llm_server.requests
    assert ours["response_format"] == theirs["response_format"]
    assert ours["messages"] == theirs["messages"]


async def test_deep_asks_the_stronger_model(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    async with open_model() as model:
        default, deep = await model.complete(question()), await model.complete(question(), deep=True)
        assert (model.name(deep=False), model.name(deep=True)) == ("small", "large")
    assert (default.model, deep.model) == ("small", "large")
    assert [body["model"] for body in llm_server.requests] == ["small", "large"]
    assert observer.models == ["small", "large"]


async def test_a_model_that_prefers_another_api_is_asked_over_chat_all_the_same(
    llm_server: LLMServer, observer: RecordingObserver
) -> None:
    model = OpenAILanguageModel(
        model="gpt-5.2-pro",
        deep_model="o3-pro",
        api_key=SecretStr(KEY),
        base_url=llm_server.base_url,
        timeout_s=10,
        max_retries=0,
        max_concurrency=1,
        observer=observer,
        clock=SystemClock(),
    )
    try:
        assert (await model.complete(question())).text
        assert (await model.complete(question(), deep=True)).text
    finally:
        await model.aclose()
    assert llm_server.n_calls == 2


async def test_a_server_that_wants_no_key_gets_a_placeholder_and_never_one_from_the_environment(
    open_model: Opener, llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    async with open_model(key="") as model:
        await model.complete(question())
    assert llm_server.headers[0]["Authorization"] == "Bearer none"


async def test_tracing_stays_off_whatever_the_environment_says(
    open_model: Opener, llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_test")
    monkeypatch.setenv("LANGSMITH_GATEWAY", "true")
    traced: list[object] = []
    monkeypatch.setattr("langchain_core.tracers.langchain.LangChainTracer.__init__", lambda *_, **__: traced.append(1))
    async with open_model() as model:
        await model.complete(question())
    assert (traced, llm_server.n_calls) == ([], 1)


async def test_nothing_is_connected_before_the_first_question(open_model: Opener, llm_server: LLMServer) -> None:
    await llm_server.close()
    async with open_model() as model:
        assert model.name(deep=False) == "small"


# --- faults ---


REASONS = [
    (Fault.RATE_LIMITED, "rate_limited"),
    (Fault.SERVER_ERROR, "unavailable"),
    (Fault.UNAUTHORIZED, "unavailable"),
    (Fault.BAD_REQUEST, "unavailable"),
    (Fault.CONNECTION_RESET, "unavailable"),
    (Fault.NOT_JSON, "malformed"),
    (Fault.EMPTY_CHOICES, "malformed"),
    (Fault.EMPTY_CONTENT, "malformed"),
    (Fault.TRUNCATED, "truncated"),
    (Fault.REFUSAL, "refused"),
    (Fault.CONTENT_FILTER, "filtered"),
    (Fault.TEXT_BODY, "malformed"),
    (Fault.LIST_BODY, "malformed"),
    (Fault.NULL_BODY, "malformed"),
    (Fault.NESTED_BODY, "malformed"),
    (Fault.EMPTY_CHOICE, "malformed"),
    (Fault.NULL_MESSAGE, "malformed"),
    (Fault.WRONG_ROLE, "malformed"),
    (Fault.TEXT_TOOL_CALLS, "malformed"),
    (Fault.TEXT_USAGE, "malformed"),
    (Fault.LIST_USAGE, "malformed"),
    (Fault.TEXT_USAGE_DETAILS, "malformed"),
    (Fault.BAD_STATUS_LINE, "unavailable"),
    (Fault.BAD_CHUNK_SIZE, "unavailable"),
    (Fault.BAD_ENCODING, "unavailable"),
    (Fault.CUT_BODY, "unavailable"),
    (Fault.LONG_HEADER, "unavailable"),
    (Fault.BODY_OF_204, "unavailable"),
    (Fault.QUOTA_EXHAUSTED, "quota_exhausted"),
    (Fault.BILLING_LIMIT, "quota_exhausted"),
    (Fault.NO_CREDIT, "quota_exhausted"),
    (Fault.FORBIDDEN, "unavailable"),
    (Fault.MODEL_NOT_FOUND, "unavailable"),
    (Fault.PROMPT_FILTERED, "filtered"),
    (Fault.NO_VALID_JSON, "malformed"),
    (Fault.ANSWER_CUT, "unavailable"),
    (Fault.ANSWER_ERROR, "unavailable"),
    (Fault.ANSWER_UNFINISHED, "truncated"),
    (Fault.GATEWAY_TIMEOUT, "unavailable"),
    (Fault.ENDLESS_BODY, "malformed"),
    (Fault.ENDLESS_ANSWER, "malformed"),
    (Fault.COMPRESSED_BODY, "unavailable"),
]
# A stream says what the answer cost only after it.
IN_USAGE = (Fault.TEXT_USAGE, Fault.LIST_USAGE, Fault.TEXT_USAGE_DETAILS)


@pytest.mark.parametrize(
    ("fault", "reason", "streaming"),
    [
        *((fault, reason, False) for fault, reason in REASONS),
        *((fault, reason, True) for fault, reason in REASONS if fault not in IN_USAGE),
    ],
)
async def test_each_fault_has_its_name(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, fault: Fault, reason: str, streaming: bool
) -> None:
    llm_server.fail(fault)
    async with open_model(streaming=streaming) as model:
        with pytest.raises(LanguageModelFailed) as failure:
            await model.complete(question())
    assert failure.value.reason == reason
    assert [outcome for outcome, _, _ in observer.calls] == [reason]


@pytest.mark.parametrize("fault", [*IN_USAGE, Fault.HUGE_TOKENS])
async def test_what_follows_the_end_of_a_streamed_answer_can_not_cost_it(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, fault: Fault
) -> None:
    llm_server.fail(fault)
    async with open_model(streaming=True) as model:
        assert set(json.loads((await model.complete(question())).text)) == {"taste", "groups"}
    assert [outcome for outcome, _, _ in observer.calls] == ["ok"]


@pytest.mark.parametrize(
    ("fault", "n_tokens"), [(Fault.TEXT_TOKENS, 0), (Fault.NEGATIVE_TOKENS, 0), (Fault.HUGE_TOKENS, 2**53)]
)
async def test_a_senseless_number_of_tokens_costs_no_answer_and_is_brought_within_bounds(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, fault: Fault, n_tokens: int
) -> None:
    llm_server.fail(fault)
    async with open_model() as model:
        completion = await model.complete(question())
    assert set(json.loads(completion.text)) == {"taste", "groups"}
    assert (completion.prompt_tokens, completion.completion_tokens) == (n_tokens, n_tokens)
    assert observer.calls == [("ok", n_tokens, n_tokens)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant") | json_values, "content": st.text() | json_values},
    optional={"refusal": json_values, "tool_calls": json_values, "function_call": json_values, "audio": json_values},
)
choices = st.fixed_dictionaries({"message": messages | json_values}, optional={"finish_reason": json_values})
usages = st.fixed_dictionaries(
    {"prompt_tokens": json_values, "completion_tokens": json_values},
    optional={"total_tokens": json_values, "prompt_tokens_details": json_values},
)
spoilt_parts = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices | json_values, min_size=1, max_size=2) | json_values,
        "usage": usages | json_values,
        "error": json_values,
        "model": json_values,
        "service_tier": json_values,
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoilt=spoilt_parts)
async def test_whatever_the_body_holds_the_call_ends_with_an_answer_or_a_named_failure(
    model: OpenAILanguageModel, llm_server: LLMServer, observer: RecordingObserver, spoilt: dict[str, object]
) -> None:
    llm_server.spoilt = spoilt
    observer.calls.clear()
    try:
        completion = await model.complete(QUESTION)
    except LanguageModelFailed as failure:
        outcome = failure.reason
        assert outcome in LANGUAGE_MODEL_FAILURES
    else:
        outcome = "ok"
        assert completion.text
    ((counted_as, *tokens),) = observer.calls
    assert counted_as == outcome
    assert all(type(n) is int and 0 <= n <= 2**53 for n in tokens)


@pytest.mark.parametrize("fault", [None, Fault.SERVER_ERROR])
async def test_an_observer_that_fails_is_logged_and_changes_nothing(
    open_model: Opener,
    llm_server: LLMServer,
    observer: RecordingObserver,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault | None,
) -> None:
    monkeypatch.setattr(observer, "llm_call", None)
    if fault is not None:
        llm_server.fail(fault)
    expected = pytest.raises(LanguageModelFailed, match="unavailable") if fault else nullcontext()
    with structlog.testing.capture_logs() as lines:
        async with open_model() as model:
            with expected:
                assert (await model.complete(question())).text
    assert [(line["event"], line["part"]) for line in lines] == [("unexpected_error_caught", "observer")]


async def test_a_cancelled_call_stays_cancelled_although_its_observer_fails(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "llm_call", None)
    llm_server.fail(Fault.HANG)
    with structlog.testing.capture_logs() as lines:
        async with open_model() as model:
            call = asyncio.create_task(model.complete(question()))
            await llm_server.called(1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    assert [line["event"] for line in lines] == ["unexpected_error_caught"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_a_truncated_answer_is_handed_over_as_far_as_it_goes_and_its_tokens_are_counted(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, method: Method, streaming: bool
) -> None:
    llm_server.fail(Fault.TRUNCATED)
    async with open_model(structured_output=method, streaming=streaming) as model:
        with pytest.raises(LanguageModelFailed) as failure:
            await model.complete(question())
    assert failure.value.partial_text is not None
    assert failure.value.partial_text.startswith('{"taste":')
    assert '"picks":[{"h":' in failure.value.partial_text
    ((_, prompt_tokens, completion_tokens),) = observer.calls
    assert (failure.value.prompt_tokens, failure.value.completion_tokens) == (prompt_tokens, completion_tokens)
    assert prompt_tokens > 0
    assert completion_tokens > 0


async def test_a_server_that_never_answers_is_left_after_the_time_limit(
    open_model: Opener, llm_server: LLMServer
) -> None:
    llm_server.fail(Fault.HANG)
    async with open_model(timeout_s=0.2, max_retries=5) as model:
        with pytest.raises(LanguageModelFailed, match="timeout"):
            await model.complete(question())
    assert llm_server.n_calls == 1


async def test_a_server_that_is_not_there_is_unavailable(open_model: Opener, llm_server: LLMServer) -> None:
    await llm_server.close()
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed, match="unavailable"):
            await model.complete(question())


async def test_the_client_tries_again_and_waits_as_long_as_it_is_told(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.fail(Fault.RATE_LIMITED, times=1, retry_after_s=0.3)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with open_model(max_retries=2) as model:
        await model.complete(question())
    assert loop.time() - started_s >= 0.3
    assert llm_server.n_calls == 2
    assert [outcome for outcome, _, _ in observer.calls] == ["ok"]


async def test_a_wait_beyond_the_time_limit_is_not_begun(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.fail(Fault.RATE_LIMITED, retry_after_s=60)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with open_model(max_retries=2, timeout_s=10) as model:
        with pytest.raises(LanguageModelFailed, match="rate_limited"):
            await model.complete(question())
    assert loop.time() - started_s < 5
    assert llm_server.n_calls == 1


async def test_retries_share_one_time_limit_and_the_last_failure_gives_the_name(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.fail(Fault.SERVER_ERROR)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with open_model(max_retries=10, timeout_s=0.8) as model:
        with pytest.raises(LanguageModelFailed, match="unavailable"):
            await model.complete(question())
    assert loop.time() - started_s < 0.8
    assert llm_server.n_calls == 1 + len(observer.retries) < 10


def in_2_s() -> dict[str, str]:
    return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "least_s"),
    [
        (lambda: {"Retry-After": "0.2"}, 0.2),
        (lambda: {"retry-after-ms": "200"}, 0.2),
        (lambda: {"retry-after-ms": "150", "Retry-After": "3600"}, 0.15),
        (in_2_s, 0.9),  # a date has no fractions of a second
    ],
    ids=["seconds", "milliseconds", "both", "date"],
)
async def test_a_wait_that_the_server_asks_for_is_kept_in_every_form(
    open_model: Opener,
    llm_server: LLMServer,
    observer: RecordingObserver,
    headers: Callable[[], dict[str, str]],
    least_s: float,
) -> None:
    llm_server.fail(Fault.RATE_LIMITED, times=1, headers=headers())
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with open_model(max_retries=1) as model:
        assert (await model.complete(question())).text
    assert least_s <= loop.time() - started_s < 5
    assert observer.retries == ["rate_limited"]


NO_DATE = "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"


@pytest.mark.parametrize("header", ["soon", "nan", "-5", "Thu, 01 Jan 1970 00:00:00 GMT", "0", "", NO_DATE])
async def test_a_senseless_wait_is_replaced_by_the_clients_own(
    open_model: Opener, llm_server: LLMServer, header: str
) -> None:
    llm_server.fail(Fault.RATE_LIMITED, times=1, headers={"Retry-After": header})
    async with open_model(max_retries=1, timeout_s=3) as model:
        assert (await model.complete(question())).text
    assert llm_server.n_calls == 2


@pytest.mark.parametrize(
    "header",
    ["inf", "1e300", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)],
    ids=["infinite", "long", "date"],
)
async def test_a_wait_beyond_the_time_limit_is_not_begun_in_whatever_form(
    open_model: Opener, llm_server: LLMServer, header: str
) -> None:
    llm_server.fail(Fault.RATE_LIMITED, headers={"Retry-After": header})
    async with open_model(max_retries=3) as model:
        with pytest.raises(LanguageModelFailed, match="rate_limited"):
            await model.complete(question())
    assert llm_server.n_calls == 1


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        Fault.QUOTA_EXHAUSTED,
        Fault.BILLING_LIMIT,
        Fault.NO_CREDIT,
        Fault.UNAUTHORIZED,
        Fault.FORBIDDEN,
        Fault.MODEL_NOT_FOUND,
        Fault.BAD_REQUEST,
        Fault.PROMPT_FILTERED,
        Fault.NOT_TO_BE_RETRIED,
        Fault.REFUSAL,
        Fault.CONTENT_FILTER,
        Fault.TRUNCATED,
        Fault.MALFORMED,
    ],
)
async def test_what_no_retry_can_mend_is_not_retried(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, fault: Fault, streaming: bool
) -> None:
    llm_server.fail(fault)
    async with open_model(max_retries=3, streaming=streaming) as model:
        with pytest.raises(LanguageModelFailed) if fault is not Fault.MALFORMED else nullcontext():
            await model.complete(question())
    assert llm_server.n_calls == 1
    assert observer.retries == []


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.MODEL_NOT_FOUND])
async def test_having_no_access_is_said_once_until_there_is_and_again_when_it_is_lost(
    open_model: Opener, llm_server: LLMServer, fault: Fault
) -> None:
    async def ask_in_vain(model: OpenAILanguageModel, times: int) -> None:
        llm_server.fail(fault, times=times)
        for _ in range(times):
            with pytest.raises(LanguageModelFailed, match="unavailable"):
                await model.complete(QUESTION)

    with structlog.testing.capture_logs() as lines:
        async with open_model() as model:
            await ask_in_vain(model, 3)
            await model.complete(QUESTION)
            await ask_in_vain(model, 2)
    refused = [line for line in lines if line["event"] == "llm_access_refused"]
    assert len(refused) == 2
    assert (refused[0]["model"], refused[0]["status"] in (401, 403, 404)) == ("small", True)


async def test_a_cancelled_call_is_cancelled_and_leaves_its_slot_to_the_next(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.fail(Fault.HANG, times=1)
    async with open_model(max_concurrency=1) as model:
        call = asyncio.create_task(model.complete(question()))
        await llm_server.called(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await model.complete(question())).text
    assert [outcome for outcome, _, _ in observer.calls] == ["cancelled", "ok"]


# --- answers without an end ---


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", [Fault.ENDLESS_BODY, Fault.ENDLESS_ANSWER, Fault.COMPRESSED_BODY])
async def test_no_more_is_held_of_an_answer_than_answers_have(
    open_model: Opener, llm_server: LLMServer, fault: Fault, streaming: bool
) -> None:
    async with open_model(streaming=streaming) as model:
        await model.complete(QUESTION)
        llm_server.fail(fault)
        tracemalloc.start()
        try:
            with pytest.raises(LanguageModelFailed):
                await model.complete(QUESTION)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 16 * 2**20


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_of_too_many_characters_is_malformed_and_still_paid_for(
    open_model: Opener, llm_server: LLMServer, streaming: bool
) -> None:
    llm_server.scripted = '{"taste": "' + "la " * 30_000 + '"}'
    use = CallUse()
    async with open_model(streaming=streaming) as model:
        with pytest.raises(LanguageModelFailed, match="malformed") as failure:
            await model.complete(QUESTION, use=use)
    assert len(failure.value.partial_text or "") <= 65_536
    # The usage of a stream comes last, and is not waited for.
    assert (use.n_requests, use.n_untold, use.completion_tokens > 20_000) == (1, int(streaming), not streaming)


# --- what was used ---


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.language_model._FIRST_WAIT_S", 0.01)


USES = {
    Fault.RATE_LIMITED: (3, 0),
    Fault.QUOTA_EXHAUSTED: (1, 0),
    Fault.BAD_REQUEST: (1, 0),
    Fault.PROMPT_FILTERED: (1, 0),
    Fault.SERVER_ERROR: (3, 3),
    Fault.GATEWAY_TIMEOUT: (3, 3),
    Fault.CONNECTION_RESET: (3, 3),
    Fault.CUT_BODY: (3, 3),
    Fault.ANSWER_CUT: (3, 3),
    Fault.ANSWER_ERROR: (3, 3),
    Fault.NOT_JSON: (1, 1),
    Fault.ANSWER_STALLS: (1, 1),
    Fault.HANG: (1, 1),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", USES)
async def test_of_each_request_it_is_known_whether_it_may_have_to_be_paid(
    open_model: Opener, llm_server: LLMServer, fault: Fault, streaming: bool
) -> None:
    llm_server.fail(fault)
    use = CallUse()
    # All requests together may take so long: only where nothing more comes is it waited for.
    timeout_s = 0.5 if fault in (Fault.ANSWER_STALLS, Fault.HANG) else 10
    async with open_model(max_retries=2, streaming=streaming, timeout_s=timeout_s) as model:
        with pytest.raises(LanguageModelFailed) as failure:
            await model.complete(QUESTION, use=use)
    assert (use.n_requests, use.n_untold) == USES[fault]
    assert failure.value.n_requests == use.n_requests == llm_server.n_calls


@pytest.mark.usefixtures("hasty")
async def test_a_connection_that_was_refused_costs_nothing(open_model: Opener, llm_server: LLMServer) -> None:
    await llm_server.close()
    use = CallUse()
    async with open_model(max_retries=2) as model:
        with pytest.raises(LanguageModelFailed, match="unavailable"):
            await model.complete(QUESTION, use=use)
    assert use == CallUse(n_requests=3)


@pytest.mark.parametrize("status", [400, 500])
async def test_a_part_that_is_refused_costs_nothing_whatever_the_status(
    open_model: Opener, llm_server: LLMServer, status: int
) -> None:
    llm_server.endpoint = Endpoint(refuses=frozenset({"json_schema"}), refusal_status=status)
    use = CallUse()
    async with open_model() as model:
        await model.complete(QUESTION, use=use)
    assert (use.n_requests, use.n_untold, use.prompt_tokens > 0) == (2, 0, True)


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_without_usage_is_one_that_nothing_is_told_of(
    open_model: Opener, llm_server: LLMServer, streaming: bool
) -> None:
    llm_server.endpoint.tells_usage = False
    use = CallUse()
    async with open_model(streaming=streaming) as model:
        assert (await model.complete(QUESTION, use=use)).text
    assert use == CallUse(n_requests=1, n_untold=1)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("fault", "n_untold"), [(Fault.RATE_LIMITED, 1), (Fault.CUT_BODY, 2)])
async def test_a_call_that_is_cancelled_has_used_what_it_sent(
    open_model: Opener, llm_server: LLMServer, fault: Fault, n_untold: int
) -> None:
    llm_server.fail(fault, times=1)
    llm_server.fail(Fault.HANG)
    use = CallUse()
    async with open_model(max_retries=2) as model:
        call = asyncio.create_task(model.complete(QUESTION, use=use))
        await llm_server.called(2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert use == CallUse(n_requests=2, n_untold=n_untold)


@pytest.mark.usefixtures("hasty")
async def test_tokens_of_all_requests_of_a_call_are_counted(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.endpoint = Endpoint(refuses=frozenset({"temperature"}))
    llm_server.fail(Fault.GATEWAY_TIMEOUT, times=1)
    use = CallUse()
    async with open_model(max_retries=2, temperature=0.5) as model:
        completion = await model.complete(QUESTION, use=use)
    assert (use.n_requests, use.n_untold) == (3, 1)
    assert (use.prompt_tokens, use.completion_tokens) == (completion.prompt_tokens, completion.completion_tokens)


# --- the boundary ---


@pytest.mark.parametrize("part", ["may_be_paid", "may_be_retried", "named", "refused_part", "retry_after_s"])
async def test_even_what_looks_at_a_failure_may_fail(
    open_model: Opener, llm_server: LLMServer, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def trip(*_: object) -> None:
        raise OverflowError("the server said sk-secret")

    monkeypatch.setattr(f"services.language_model.{part}", trip)
    llm_server.fail(Fault.RATE_LIMITED)
    with structlog.testing.capture_logs() as lines:
        async with open_model(max_retries=1) as model:
            with pytest.raises(LanguageModelFailed, match="malformed"):
                await model.complete(QUESTION)
    assert [(line["event"], line["part"]) for line in lines] == [("unexpected_error_caught", "language_model")]
    assert "sk-secret" not in repr(lines)


dates = st.builds(
    "{}, {:02d} {} {} {}:28:00 {}".format,
    st.sampled_from(["Wed", "", "Mittwoch"]),
    st.integers(-1, 10**20),
    st.sampled_from(["Oct", "Foo", "13"]),
    st.integers(-1, 10**20),
    st.integers(-1, 10**9),
    st.sampled_from(["GMT", "-0000", "+9999", "-999999999999", ""]),
)
header_values = dates | st.text(st.characters(min_codepoint=32, max_codepoint=126)) | st.floats().map(str)


@settings(max_examples=300, deadline=None)
@given(
    status=st.sampled_from([400, 401, 404, 408, 422, 429, 500, 503]),
    headers=st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry"]), header_values),
    body=json_values,
)
def test_whatever_a_failure_says_it_can_be_read(status: int, headers: dict[str, str], body: object) -> None:
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("POST", "http://127.0.0.1/v1"))
    error = openai.APIStatusError("said", response=response, body=body)
    assert named(error).reason in LANGUAGE_MODEL_FAILURES
    assert may_be_paid(error) is (status >= 500)
    assert may_be_retried(error) in (True, False)
    wait_s = retry_after_s(error, datetime.now(UTC))
    assert wait_s is None or wait_s >= 0
    assert refused_part(error, Dialect()) in (None, "stream_options", "response_format", "length_limit", "temperature")


# --- streams ---


@pytest.mark.parametrize("method", METHODS)
async def test_a_streamed_answer_is_the_same_completion(
    open_model: Opener, llm_server: LLMServer, method: Method
) -> None:
    llm_server.endpoint.cached_tokens = 64
    async with (
        open_model(structured_output=method) as whole,
        open_model(structured_output=method, streaming=True) as streamed,
    ):
        assert await streamed.complete(QUESTION) == await whole.complete(QUESTION)
    assert [bool(body.get("stream")) for body in llm_server.requests] == [True, False]
    assert llm_server.requests[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fault", "reason", "timeout_s"),
    [(Fault.ANSWER_CUT, "unavailable", 10), (Fault.ANSWER_ERROR, "unavailable", 10),
     (Fault.ANSWER_STALLS, "timeout", 0.5), (Fault.ANSWER_UNFINISHED, "truncated", 10)],
)  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
async def test_of_a_stream_that_breaks_what_had_come_is_handed_over(
    open_model: Opener, llm_server: LLMServer, fault: Fault, reason: str, timeout_s: float, method: Method
) -> None:
    llm_server.fail(fault)
    async with open_model(streaming=True, timeout_s=timeout_s, structured_output=method) as model:
        with pytest.raises(LanguageModelFailed) as failure:
            await model.complete(QUESTION)
    assert failure.value.reason == reason
    assert failure.value.partial_text is not None
    assert failure.value.partial_text.startswith('{"taste":')


async def test_a_stream_that_breaks_is_begun_anew_where_retries_are_left_and_nothing_stands_twice(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.fail(Fault.ANSWER_CUT, times=1)
    async with open_model(streaming=True, max_retries=1) as model:
        completion = await model.complete(QUESTION)
    assert set(json.loads(completion.text)) == {"taste", "groups"}
    assert observer.retries == ["unavailable"]


async def test_a_stream_without_usage_gives_the_answer_and_counts_no_tokens(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.endpoint.refuses = frozenset({"stream_options"})
    async with open_model(streaming=True) as model:
        for _ in range(2):
            assert (await model.complete(QUESTION)).completion_tokens == 0
    assert observer.retries == ["stream_options"]
    assert "stream_options" not in llm_server.requests[-1]


@pytest.mark.parametrize("streaming", [False, True])
async def test_words_that_were_filtered_or_refused_are_not_handed_over(
    open_model: Opener, llm_server: LLMServer, streaming: bool
) -> None:
    async with open_model(streaming=streaming) as model:
        for fault in (Fault.CONTENT_FILTER, Fault.REFUSAL):
            llm_server.fail(fault, times=1)
            with pytest.raises(LanguageModelFailed) as failure:
                await model.complete(QUESTION)
            assert failure.value.partial_text is None
            assert failure.value.prompt_tokens > 0


# --- other endpoints ---


FIRST_TAKEN: list[tuple[set[Part], Method]] = [
    (set(), "json_schema"),
    ({"json_schema"}, "function_calling"),
    ({"json_schema", "tools"}, "json_mode"),
    ({"json_schema", "tools", "json_object"}, "none"),
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["openai", "flat", "detail"])
@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize(("refuses", "method"), FIRST_TAKEN)
async def test_auto_takes_the_first_method_that_the_endpoint_does_not_refuse_and_remembers_it(
    open_model: Opener,
    llm_server: LLMServer,
    observer: RecordingObserver,
    refuses: set[Part],
    method: Method,
    status: int,
    form: Literal["openai", "flat", "detail"],
    streaming: bool,
) -> None:
    llm_server.endpoint = Endpoint(refuses=frozenset(refuses), refusal_status=status, refusal_form=form)
    with structlog.testing.capture_logs() as lines:
        async with open_model(streaming=streaming) as model:
            for _ in range(2):
                assert set(json.loads((await model.complete(QUESTION)).text)) == {"taste", "groups"}
    assert llm_server.n_calls == len(refuses) + 2
    assert observer.retries == ["response_format"] * len(refuses)
    assert [(line["event"], line["method"]) for line in lines] == [("llm_request_adapted", method)] * bool(refuses)


def kinds_asked(body: dict[str, object]) -> object:
    response_format = body.get("response_format")
    assert response_format is None or isinstance(response_format, dict)
    return response_format["type"] if response_format else "tools" if "tools" in body else None


@pytest.mark.parametrize(
    ("method", "kind", "refused"),
    [
        ("json_schema", "json_schema", "json_schema"),
        ("function_calling", "tools", "tools"),
        ("json_mode", "json_object", "json_object"),
    ],
)
async def test_a_method_that_is_set_is_not_left(
    open_model: Opener, llm_server: LLMServer, method: Method, kind: str, refused: Part
) -> None:
    async with open_model(structured_output=method) as model:
        assert (await model.complete(QUESTION)).text
        llm_server.endpoint.refuses = frozenset({refused})
        with pytest.raises(LanguageModelFailed, match="unavailable"):
            await model.complete(QUESTION)
    assert [kinds_asked(body) for body in llm_server.requests] == [kind, kind]


@pytest.mark.parametrize("method", ["json_mode", "none"])
async def test_where_nothing_else_carries_the_schema_the_instructions_do(
    open_model: Opener, llm_server: LLMServer, method: Method
) -> None:
    async with open_model(structured_output=method) as model:
        await model.complete(QUESTION)
    messages = llm_server.requests[0]["messages"]
    assert isinstance(messages, list)
    assert messages[0]["content"].startswith(QUESTION.system)
    assert "JSON" in messages[0]["content"]
    assert json.loads(messages[0]["content"][messages[0]["content"].index('{"type"') :]) == QUESTION.schema


async def test_the_function_that_is_called_has_the_schema_and_must_be(
    open_model: Opener, llm_server: LLMServer
) -> None:
    async with open_model(structured_output="function_calling") as model:
        await model.complete(QUESTION)
    function = {"name": QUESTION.schema_name, "parameters": QUESTION.schema, "strict": True}
    assert llm_server.requests[0]["tools"] == [{"type": "function", "function": function}]
    assert llm_server.requests[0]["tool_choice"] == {"type": "function", "function": {"name": QUESTION.schema_name}}


async def test_an_endpoint_that_takes_tools_but_answers_in_content_is_understood(
    open_model: Opener, llm_server: LLMServer
) -> None:
    llm_server.endpoint.calls_tools = False
    async with open_model(structured_output="function_calling") as model:
        assert set(json.loads((await model.complete(QUESTION)).text)) == {"taste", "groups"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["fenced", "thinking", "thinking_closed_only"])
async def test_fences_and_thoughts_around_the_answer_do_not_matter(
    open_model: Opener,
    llm_server: LLMServer,
    form: Literal["fenced", "thinking", "thinking_closed_only"],
    streaming: bool,
) -> None:
    llm_server.endpoint.answers_in = form
    async with open_model(structured_output="none", streaming=streaming) as model:
        document, is_whole = read_object((await model.complete(QUESTION)).text)
    assert is_whole
    assert set(document) == {"taste", "groups"}


async def test_a_thought_that_was_cut_off_is_no_part_of_an_answer(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.scripted = '<think>Perhaps {"taste": "none"} or rather, let me see whether all of these'
    llm_server.fail(Fault.TRUNCATED)
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed, match="truncated") as failure:
            await model.complete(QUESTION)
    assert failure.value.partial_text is None


@pytest.mark.parametrize("form", ["openai", "flat", "detail"])
async def test_an_endpoint_that_knows_only_the_older_name_of_the_ceiling_gets_that(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, form: Literal["openai", "flat", "detail"]
) -> None:
    llm_server.endpoint = Endpoint(refuses=frozenset({"max_completion_tokens"}), refusal_form=form)
    async with open_model() as model:
        for _ in range(2):
            assert (await model.complete(QUESTION)).text
    assert llm_server.requests[-1]["max_tokens"] == QUESTION.max_output_tokens
    assert "max_completion_tokens" not in llm_server.requests[-1]
    assert observer.retries == ["length_limit"]


async def test_an_endpoint_that_refuses_the_older_name_never_sees_it(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.endpoint.refuses = frozenset({"max_tokens"})
    async with open_model() as model:
        assert (await model.complete(QUESTION)).text
    assert llm_server.n_calls == 1


async def test_an_endpoint_that_changes_its_mind_is_followed(open_model: Opener, llm_server: LLMServer) -> None:
    async with open_model() as model:
        for refused in ("max_completion_tokens", "max_tokens"):
            llm_server.endpoint.refuses = frozenset({refused})
            assert (await model.complete(QUESTION)).text
    assert llm_server.n_calls == 4


async def test_an_endpoint_that_takes_no_ceiling_at_all_is_not_asked_for_ever(
    open_model: Opener, llm_server: LLMServer
) -> None:
    llm_server.endpoint.refuses = frozenset({"max_completion_tokens", "max_tokens"})
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed, match="unavailable"):
            await model.complete(QUESTION)
    assert llm_server.n_calls == 2


async def test_a_temperature_is_sent_where_one_is_set_and_taken(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    async with open_model() as model:
        await model.complete(QUESTION)
    async with open_model(temperature=0.0) as model:
        await model.complete(QUESTION)
        llm_server.endpoint.refuses = frozenset({"temperature"})
        for _ in range(2):
            await model.complete(QUESTION)
    sent = [body.get("temperature") for body in llm_server.requests]
    assert sent == [None, 0.0, 0.0, None, None]
    assert observer.retries == ["temperature"]


async def test_all_that_an_endpoint_refuses_is_found_in_one_call(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.endpoint.refuses = frozenset(
        {"json_schema", "tools", "max_completion_tokens", "temperature", "stream_options"}
    )
    async with open_model(temperature=0.2, streaming=True) as model:
        assert (await model.complete(QUESTION)).text
    assert sorted(observer.retries) == [
        "length_limit", "response_format", "response_format", "stream_options", "temperature",
    ]  # fmt: skip


async def test_what_one_model_refuses_is_still_asked_of_the_other(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.endpoint.refuses = frozenset({"json_schema"})
    async with open_model() as model:
        await model.complete(QUESTION)
        llm_server.endpoint.refuses = frozenset()
        await model.complete(QUESTION, deep=True)
    assert [kinds_asked(body) for body in llm_server.requests] == ["json_schema", "tools", "json_schema"]


async def test_a_bad_request_for_another_reason_teaches_nothing(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.fail(Fault.BAD_REQUEST, times=1)
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed, match="unavailable"):
            await model.complete(QUESTION)
        await model.complete(QUESTION)
    assert [kinds_asked(body) for body in llm_server.requests] == ["json_schema"] * 2


@pytest.mark.parametrize("streaming", [False, True])
async def test_tokens_from_the_providers_cache_are_counted(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, streaming: bool
) -> None:
    llm_server.endpoint.cached_tokens = 256
    async with open_model(streaming=streaming) as model:
        assert (await model.complete(QUESTION)).cached_tokens == 256
    assert observer.cached_tokens == 256


async def test_an_azure_deployment_is_asked_by_its_path_its_version_and_its_header(
    open_model: Opener, llm_server: LLMServer
) -> None:
    base_url = llm_server.base_url.replace("/v1", "/openai/deployments/{model}")
    async with open_model(base_url=base_url, api_version="2024-10-21") as model:
        assert (await model.complete(QUESTION)).text
        assert (await model.complete(QUESTION, deep=True)).text
    assert list(llm_server.paths) == [
        f"/openai/deployments/{name}/chat/completions?api-version=2024-10-21" for name in ("small", "large")
    ]
    assert llm_server.headers[0]["api-key"] == KEY


# --- many at once, and secrets ---


async def test_a_hundred_calls_are_under_way_at_once(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.gate = 100
    async with open_model(max_concurrency=128, timeout_s=30) as model:
        await asyncio.gather(*(model.complete(question()) for _ in range(100)))
    assert llm_server.stats.max_in_flight == 100


async def test_no_more_calls_are_under_way_than_allowed(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.delay_s = 0.01
    async with open_model(max_concurrency=3) as model:
        await asyncio.gather(*(model.complete(question()) for _ in range(12)))
    assert llm_server.stats.max_in_flight == 3
    assert llm_server.n_calls == 12


async def test_prompts_of_different_schemas_keep_their_own(open_model: Opener, llm_server: LLMServer) -> None:
    prompt = question()
    other = replace(prompt, schema_name="other", schema={"type": "object"})
    async with open_model() as model:
        await asyncio.gather(model.complete(prompt), model.complete(other))
    names = {body["response_format"]["json_schema"]["name"] for body in llm_server.requests}  # type: ignore[index]
    assert names == {"recommendation", "other"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("api_version", ["", "2024-10-21"])
@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.CONNECTION_RESET, Fault.NOT_JSON, None])
async def test_the_key_is_in_no_log_line_no_repr_and_no_error(
    open_model: Opener,
    llm_server: LLMServer,
    caplog: pytest.LogCaptureFixture,
    fault: Fault | None,
    api_version: str,
    streaming: bool,
) -> None:
    if fault is not None:
        llm_server.fail(fault)
    told: list[object] = []
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as lines:
        async with open_model(api_version=api_version, streaming=streaming) as model:
            with pytest.raises(LanguageModelFailed) if fault else nullcontext() as failure:
                await model.complete(question())
    if failure is not None:
        told += ["".join(traceback.format_exception(failure.value)), repr(failure.value)]
    told += [*(record.getMessage() for record in caplog.records), *lines, vars(model)]
    assert KEY not in "".join(map(repr, told))
    assert "Bearer" not in "".join(map(repr, told))

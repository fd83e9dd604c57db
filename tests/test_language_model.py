"""The LangChain adapter against a real HTTP server: what it sends, and what becomes of every fault."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace

import openai
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.errors import LanguageModelFailed
from core.ports import Prompt
from core.prompting import build_prompt
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from tests.support.builders import make_candidate, make_item
from tests.support.llm_server import Fault, LLMServer
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
        *, key: str = KEY, timeout_s: float = 10.0, max_retries: int = 0, max_concurrency: int = 64, base_url: str = ""
    ) -> AsyncIterator[OpenAILanguageModel]:
        model = OpenAILanguageModel(
            model="small",
            deep_model="large",
            api_key=SecretStr(key),
            base_url=base_url or llm_server.base_url,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
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


async def test_deep_asks_the_stronger_model(open_model: Opener, llm_server: LLMServer) -> None:
    async with open_model() as model:
        default, deep = await model.complete(question()), await model.complete(question(), deep=True)
        assert (model.name(deep=False), model.name(deep=True)) == ("small", "large")
    assert (default.model, deep.model) == ("small", "large")
    assert [body["model"] for body in llm_server.requests] == ["small", "large"]


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


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
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
        (Fault.CONTENT_FILTER, "refused"),
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
    ],
)
async def test_each_fault_has_its_name(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver, fault: Fault, reason: str
) -> None:
    llm_server.fail(fault)
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed) as failure:
            await model.complete(question())
    assert failure.value.reason == reason
    assert [outcome for outcome, _, _ in observer.calls] == [reason]


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


async def test_a_truncated_answer_is_handed_over_as_far_as_it_goes_and_its_tokens_are_counted(
    open_model: Opener, llm_server: LLMServer, observer: RecordingObserver
) -> None:
    llm_server.fail(Fault.TRUNCATED)
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed) as failure:
            await model.complete(question())
    assert failure.value.partial_text is not None
    assert failure.value.partial_text.startswith('{"taste":')
    ((_, prompt_tokens, completion_tokens),) = observer.calls
    assert prompt_tokens > 0
    assert completion_tokens > 0


async def test_a_content_filter_that_refuses_the_request_itself_is_a_refusal(
    open_model: Opener, llm_server: LLMServer
) -> None:
    llm_server.fail(Fault.PROMPT_FILTERED)
    async with open_model() as model:
        with pytest.raises(LanguageModelFailed, match="refused"):
            await model.complete(question())


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


async def test_retries_share_one_time_limit(open_model: Opener, llm_server: LLMServer) -> None:
    llm_server.fail(Fault.SERVER_ERROR)
    async with open_model(max_retries=10, timeout_s=0.8) as model:
        with pytest.raises(LanguageModelFailed, match="timeout"):
            await model.complete(question())
    assert 1 <= llm_server.n_calls < 10


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


async def test_the_key_is_in_no_log_line_no_repr_and_no_error(
    open_model: Opener, llm_server: LLMServer, caplog: pytest.LogCaptureFixture
) -> None:
    llm_server.fail(Fault.UNAUTHORIZED)
    with caplog.at_level(logging.DEBUG):
        async with open_model() as model:
            with pytest.raises(LanguageModelFailed) as failure:
                await model.complete(question())
    told = [*(record.getMessage() for record in caplog.records), repr(vars(model)), repr(failure.value)]
    assert KEY not in "".join(told)

"""The client of the Batch API over real HTTP: what it sends, what it reads, and what it never does twice."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from config.token_price import TokenPrice
from core.errors import ConfigurationError, DependencyUnavailable, LanguageModelFailed
from core.ports.batches import BatchReply, BatchState, BatchUsage
from core.ports.language_model import Completion, Prompt
from services.llm_batches import LOST, MARK, OpenAIBatches
from tests.support.llm_batches import BatchPlan
from tests.support.llm_server import LLMServer
from tests.support.loopback_http import serving
from tests.support.private_servers import free_port

KEY = "sk-very-secret"
PROMPT = Prompt(
    system="Choose.",
    user="<candidates>\n1 一曲\n</candidates>",
    schema_name="answer",
    schema={"type": "object"},
    max_output_tokens=99,
)
PRICE = TokenPrice(input=1.0, cached_input=0.5, output=2.0)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def client(base_url: str, **more: Any) -> OpenAIBatches:
    given = {"price": PRICE, "price_factor": 0.5, "model": "m", "timeout_s": 5.0, **more}
    return OpenAIBatches(api_key=SecretStr(KEY), base_url=base_url, **given)


@pytest.fixture
async def api(llm_server: LLMServer) -> AsyncIterator[OpenAIBatches]:
    llm_server.scripted = '{"taste": "t", "groups": []}'
    opened = client(llm_server.base_url)
    yield opened
    await opened.aclose()


@asynccontextmanager
async def answering(status: int, body: object, **more: Any) -> AsyncIterator[OpenAIBatches]:
    """A client of a server that answers everything so; ``body``: JSON, or bytes as they are."""

    async def handle(_: web.Request) -> web.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=content, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serving(app) as url:
        opened = client(f"{url}/v1", **more)
        try:
            yield opened
        finally:
            await opened.aclose()


def a_file(directory: Path, api: OpenAIBatches, n: int = 2) -> Path:
    path = directory / "requests.jsonl"
    path.write_bytes(b"".join(api.line(f"question-{place}", PROMPT) for place in range(n)))
    return path


async def ended(api: OpenAIBatches, batch_id: str) -> BatchState:
    while not (state := await api.look(batch_id)).has_ended:
        continue
    return state


def said(content: str | None, *, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": usage}


def line(body: object, *, status: int = 200, error: object = None) -> dict[str, Any]:
    return {"id": "r", "custom_id": "q", "response": {"status_code": status, "body": body}, "error": error}


async def read(*lines: object, **more: Any) -> Sequence[BatchReply]:
    """What the client makes of a file of such lines; a str stands as it is."""
    content = "\n".join(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in lines)
    state = BatchState(batch_id="b", status="completed", has_ended=True, file_ids=("f",))
    async with answering(200, content.encode(), **more) as api:
        return [reply async for reply in api.replies(state)]


async def read_one(body: object, **more: Any) -> Completion | LanguageModelFailed:
    (reply,) = await read(line(body, **more))
    assert reply.custom_id == "q"
    return reply.end


# --- requests ---


def test_a_line_is_one_request_in_utf_8_that_ends_with_a_newline() -> None:
    sent = client("http://127.0.0.1:9/v1").line("q", PROMPT)
    assert sent.endswith(b"\n")
    assert sent.count(b"\n") == 1
    request = json.loads(sent)
    assert (request["custom_id"], request["method"], request["url"]) == ("q", "POST", "/v1/chat/completions")
    assert request["body"] == {
        "model": "m",
        "messages": [{"role": "system", "content": "Choose."}, {"role": "user", "content": PROMPT.user}],
        "max_completion_tokens": 99,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_method_and_temperature_are_those_of_the_settings() -> None:
    api = client("http://127.0.0.1:9/v1", structured_output="json_mode", temperature=0.2)
    body = json.loads(api.line("q", PROMPT))["body"]
    assert (body["response_format"], body["temperature"]) == ({"type": "json_object"}, 0.2)
    assert "JSON" in body["messages"][0]["content"]


def test_prices_are_those_of_calls_times_the_factor_and_nothing_where_there_are_none() -> None:
    assert client("http://127.0.0.1:9/v1").max_cost_usd(1_000_000, 1_000_000) == 1.5
    assert client("http://127.0.0.1:9/v1", price=None).max_cost_usd(1_000_000, 1_000_000) == 0


async def test_what_an_answer_cost_is_not_known_without_a_price() -> None:
    replies = await read(line(said("{}")), line(said("{}"), status=500), price=None)
    assert [reply.end.cost_usd for reply in replies] == [None, 0]
    usage = BatchUsage()
    for reply in replies:
        usage.add(reply.end)
    assert usage.cost_usd == 0
    assert usage.prompt_tokens > 0


# --- from file to answers ---


async def test_a_file_is_uploaded_answered_and_read(api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path) -> None:
    await api.check()
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api))
    assert await api.find_file("night.jsonl") == file_id
    created = await api.create(file_id, "part-1")
    assert (created.has_ended, created.n_total) == (False, 2)
    state = await ended(api, created.batch_id)
    assert (state.status, state.n_done, state.n_total) == ("completed", 2, 2)
    replies = {reply.custom_id: reply.end async for reply in api.replies(state)}
    assert set(replies) == {"question-0", "question-1"}
    answer = replies["question-0"]
    assert isinstance(answer, Completion)
    assert answer.text == llm_server.scripted
    tokens = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    assert answer.cost_usd == pytest.approx(PRICE.cost_usd(**tokens) / 2)
    await api.delete_file(file_id)
    assert await api.find_file("night.jsonl") is None
    await api.delete_file(file_id)


async def test_errors_come_beside_answers(api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path) -> None:
    llm_server.batches.plan = BatchPlan(failing_every=3)
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api, 4))
    state = await ended(api, (await api.create(file_id, "part-1")).batch_id)
    ends = {reply.custom_id: reply.end async for reply in api.replies(state)}
    assert len(ends) == 4
    (failure,) = (end for end in ends.values() if isinstance(end, LanguageModelFailed))
    assert (failure.reason, failure.cost_usd, failure.partial_text) == ("unavailable", 0, None)


async def test_a_batch_that_was_refused_says_why(api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path) -> None:
    llm_server.batches.plan = BatchPlan(end="failed")
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api))
    state = await ended(api, (await api.create(file_id, "part-1")).batch_id)
    assert (state.status, state.problem, state.file_ids) == ("failed", "invalid_json_line", ())


async def test_a_cancelled_batch_has_the_answers_that_were_there(
    api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path
) -> None:
    llm_server.batches.plan = BatchPlan(n_polls=10**9)
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api, 4))
    created = await api.create(file_id, "part-1")
    await api.cancel(created.batch_id)
    state = await api.look(created.batch_id)
    ends = [reply.end async for reply in api.replies(state)]
    assert (state.status, sum(isinstance(end, Completion) for end in ends), len(ends)) == ("cancelled", 2, 4)


# --- found again, and never made twice ---


async def test_a_batch_is_found_by_its_mark_behind_many_others(
    api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path
) -> None:
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api, 1))
    first = await api.create(file_id, "part-1")
    assert llm_server.batches.batches[first.batch_id].document["metadata"] == {MARK: "part-1"}
    for place in range(2, 130):
        await api.create(file_id, f"part-{place}")
    found = await api.find("part-1", LONG_AGO)
    assert found is not None
    assert found.batch_id == first.batch_id
    assert await api.find("part-0", LONG_AGO) is None


async def test_batches_from_before_it_are_not_looked_through(
    api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path
) -> None:
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api, 1))
    created = await api.create(file_id, "part-1")
    await api.create(file_id, "part-2")
    llm_server.batches.batches["batch_2"].document["created_at"] = 0
    assert await api.find("part-1", datetime.now(UTC)) is None
    assert await api.find("part-1", datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1)) is not None
    assert created.batch_id == "batch_1"


async def test_the_newest_file_of_a_name_is_found_behind_many_others(
    api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path
) -> None:
    path = a_file(tmp_path, api, 1)
    older, newer = [await api.upload("wanted.jsonl", path) for _ in range(2)]
    for place in range(110):
        await api.upload(f"other-{place}.jsonl", path)
    assert older != newer == await api.find_file("wanted.jsonl")


@pytest.mark.parametrize(
    "plan", [BatchPlan(n_lost_creations=1), BatchPlan(n_creations_refused=1)], ids=["lost", "refused"]
)
async def test_a_creation_is_sent_once(
    api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path, plan: BatchPlan
) -> None:
    file_id = await api.upload("night.jsonl", a_file(tmp_path, api))
    llm_server.batches.plan = plan
    with pytest.raises(DependencyUnavailable):
        await api.create(file_id, "part-1")
    found = await api.find("part-1", LONG_AGO)
    assert (found is not None) is (llm_server.batches.n_creations == 1)


async def test_an_upload_is_sent_once(api: OpenAIBatches, llm_server: LLMServer, tmp_path: Path) -> None:
    llm_server.batches.plan = BatchPlan(n_uploads_refused=1)
    with pytest.raises(DependencyUnavailable, match="500"):
        await api.upload("night.jsonl", a_file(tmp_path, api))
    assert llm_server.batches.n_uploads == 0


# --- servers that say no ---


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_a_batch_api_is_a_matter_of_configuration(status: int) -> None:
    async with answering(status, {"detail": "Not Found"}) as api:
        with pytest.raises(ConfigurationError, match=f"OPENAI_BASE_URL: .* no Batch API .*{status}"):
            await api.check()


async def test_a_key_that_is_refused_is_not_quoted() -> None:
    refusal = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}
    async with answering(401, refusal) as api:
        with pytest.raises(DependencyUnavailable) as caught:
            await api.check()
    assert "HTTP status 401 (invalid_api_key)" in str(caught.value)
    assert KEY not in str(caught.value)


async def test_no_server_at_all_is_unavailable(tmp_path: Path) -> None:
    api = client(f"http://127.0.0.1:{free_port()}/v1")
    path = a_file(tmp_path, api)
    for step in (api.check(), api.upload("n", path), api.create("f", "m"), api.look("b"), api.cancel("b")):
        with pytest.raises(DependencyUnavailable):
            await step
    await api.aclose()


async def test_what_the_provider_does_not_know_is_lost(api: OpenAIBatches) -> None:
    assert await api.look("batch_99") == BatchState(batch_id="batch_99", status=LOST, has_ended=True)
    gone = BatchState(batch_id="b", status="completed", has_ended=True, file_ids=("file-99",))
    assert [reply async for reply in api.replies(gone)] == []


async def test_cancelling_what_has_ended_is_no_failure() -> None:
    async with answering(409, {"error": {"message": "already completed", "code": "conflict"}}) as api:
        await api.cancel("b")


async def test_a_server_that_lists_no_files_has_none() -> None:
    async with answering(404, {"error": {"message": "no", "code": "unknown_url"}}) as api:
        assert await api.find_file("night.jsonl") is None


# --- answers ---


async def test_an_answer_tells_its_tokens_and_what_they_cost_in_a_batch() -> None:
    end = await read_one(said("{}"))
    assert isinstance(end, Completion)
    assert (end.text, end.prompt_tokens, end.completion_tokens, end.cached_tokens) == ("{}", 100, 10, 60)
    assert end.cost_usd == pytest.approx((40 * 1.0 + 60 * 0.5 + 10 * 2.0) / 2 / 1e6)


async def test_what_a_function_is_called_with_is_the_answer() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "answer", "arguments": '{"taste": "t"}'}}
    end = await read_one(said(None, finish_reason="tool_calls", tool_calls=[call]))
    assert isinstance(end, Completion)
    assert end.text == '{"taste": "t"}'


@pytest.mark.parametrize(
    ("body", "reason", "partial"),
    [
        (said('{"taste": "t', finish_reason="length"), "truncated", '{"taste": "t'),
        (said("", finish_reason="content_filter"), "filtered", None),
        (said(None, refusal="I can not help with that."), "refused", None),
        (said(""), "malformed", None),
        ({"choices": []}, "malformed", None),
        ({"object": "error"}, "malformed", None),
        (None, "malformed", None),
        ([1], "malformed", None),
    ],
)
async def test_an_answer_that_is_none_has_the_name_that_an_online_call_would_give_it(
    body: object, reason: str, partial: str | None
) -> None:
    end = await read_one(body)
    assert isinstance(end, LanguageModelFailed)
    assert (end.reason, end.partial_text) == (reason, partial)
    assert ((end.cost_usd or 0) > 0) is (isinstance(body, Mapping) and "usage" in body)


@pytest.mark.parametrize(
    "failed",
    [
        line(said("{}"), status=500),
        line(None, error={"code": "batch_expired", "message": "m"}),
        {"custom_id": "q", "response": None, "error": {"code": "batch_cancelled"}},
        {"custom_id": "q", "response": None, "error": None},
    ],
)
async def test_a_request_that_was_not_answered_is_unavailable_and_costs_nothing(failed: object) -> None:
    (reply,) = await read(failed)
    assert isinstance(reply.end, LanguageModelFailed)
    assert (reply.end.reason, reply.end.cost_usd) == ("unavailable", 0)


async def test_lines_that_nobody_can_read_are_left_out() -> None:
    replies = await read("", "{", "[]", "7", '{"custom_id"', {"no": "id"}, line(said("{}")), "")
    assert [reply.custom_id for reply in replies] == ["q"]


async def test_a_line_ends_at_a_newline_and_nowhere_else() -> None:
    text = '{"taste": "one\u2028two\u0085three\u000bfour"}'
    end = await read_one(said(text))
    assert isinstance(end, Completion)
    assert end.text == text


async def test_a_long_file_is_read_whole() -> None:
    lines = [{**line(said("x" * 3000)), "custom_id": f"q{place}"} for place in range(300)]
    replies = await read(*lines)
    assert [reply.custom_id for reply in replies] == [f"q{place}" for place in range(300)]
    assert all(isinstance(reply.end, Completion) for reply in replies)

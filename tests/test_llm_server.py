"""The test server is itself tested: what others measure by it must be true."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from pydantic import SecretStr

from benchmarks.llm_overhead import OURS, REFERENCE, run
from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from core.model_answer import parse_answer
from core.prompting import build_prompt
from core.reranking import Reranker, RerankRequest
from models.job import Strategy
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from tests.support.builders import make_candidate, make_item
from tests.support.llm_batches import BatchPlan
from tests.support.llm_faults import Fault
from tests.support.llm_server import LIES, LLMServer, Manner, count_tokens, prompt_text, read_prompt
from tests.support.scripted_language_model import RecordingObserver

PROFILE, TEXTS = load_profile("songs"), load_prompt_texts()
CANDIDATES = [make_candidate(make_item(number), score=1 / number) for number in range(1, 41)]


def chat_body(locale: str = "en", n_picks: int = 20) -> dict[str, object]:
    prompt, _ = build_prompt(CANDIDATES, [make_item(99)], locale=locale, profile=PROFILE, texts=TEXTS, n_picks=n_picks)
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
    return {"model": "any", "messages": messages}


async def post(url: str, body: object) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        return response.status, await response.json()


async def ask(server: LLMServer, body: dict[str, object]) -> dict[str, object]:
    status, completion = await post(f"{server.base_url}/chat/completions", body)
    assert status == 200
    return completion


def content(completion: dict[str, object]) -> str:
    choices = completion["choices"]
    assert isinstance(choices, list)
    return str(choices[0]["message"]["content"])


@pytest.mark.parametrize(("locale", "letters"), [("en", "A-Za-z"), ("ko", "가-힣"), ("ja", "ぁ-ヿ一-鿿")])
async def test_it_answers_as_a_good_model_would(llm_server: LLMServer, locale: str, letters: str) -> None:
    completion = await ask(llm_server, chat_body(locale))
    answer = parse_answer(content(completion), dict(enumerate(CANDIDATES, 1)), letters=letters)
    assert (len(answer.choices), len(answer.groups), answer.dropped) == (20, 4, {})
    assert answer.is_whole
    assert answer.taste


async def test_its_answer_to_one_prompt_is_always_the_same_and_not_the_given_order(llm_server: LLMServer) -> None:
    first, second = await ask(llm_server, chat_body()), await ask(llm_server, chat_body())
    assert content(first) == content(second)
    picks = [pick["h"] for group in json.loads(content(first))["groups"] for pick in group["picks"]]
    assert picks != sorted(picks)


async def test_it_counts_tokens_calls_and_keeps_requests(llm_server: LLMServer) -> None:
    body = chat_body()
    completion = await ask(llm_server, body)
    assert completion["usage"] == {
        "prompt_tokens": count_tokens(prompt_text(body)),
        "completion_tokens": count_tokens(content(completion)),
        "total_tokens": count_tokens(prompt_text(body)) + count_tokens(content(completion)),
    }
    assert llm_server.n_calls == 1
    assert list(llm_server.requests) == [body]


async def test_faults_end_after_their_times_in_order(llm_server: LLMServer) -> None:
    llm_server.fail(Fault.RATE_LIMITED, times=1, retry_after_s=7)
    llm_server.fail(Fault.SERVER_ERROR, times=2)
    url = f"{llm_server.base_url}/chat/completions"
    assert [(await post(url, chat_body()))[0] for _ in range(4)] == [429, 500, 500, 200]
    assert llm_server.stats.faults == {"rate_limited": 1, "server_error": 2}


EXPECTED = {
    Fault.RATE_LIMITED: "rate_limited",
    Fault.SERVER_ERROR: "unavailable",
    Fault.UNAUTHORIZED: "unavailable",
    Fault.BAD_REQUEST: "unavailable",
    Fault.PROMPT_FILTERED: "filtered",
    Fault.HANG: "timeout",
    Fault.CONNECTION_RESET: "unavailable",
    Fault.NOT_JSON: "malformed",
    Fault.MALFORMED: "malformed",
    Fault.TRUNCATED: "truncated",
    Fault.REFUSAL: "refused",
    Fault.CONTENT_FILTER: "filtered",
    Fault.EMPTY_CHOICES: "malformed",
    Fault.EMPTY_CONTENT: "malformed",
    Fault.UNKNOWN_HANDLES: "malformed",
    Fault.REPEATED_HANDLES: "incomplete",
    Fault.WRONG_LANGUAGE: None,
    Fault.TEXT_BODY: "malformed",
    Fault.LIST_BODY: "malformed",
    Fault.NULL_BODY: "malformed",
    Fault.NESTED_BODY: "malformed",
    Fault.EMPTY_CHOICE: "malformed",
    Fault.NULL_MESSAGE: "malformed",
    Fault.WRONG_ROLE: "malformed",
    Fault.TEXT_TOOL_CALLS: "malformed",
    Fault.TEXT_USAGE: "malformed",
    Fault.LIST_USAGE: "malformed",
    Fault.TEXT_USAGE_DETAILS: "malformed",
    Fault.TEXT_TOKENS: None,
    Fault.NEGATIVE_TOKENS: None,
    Fault.HUGE_TOKENS: None,
    Fault.BAD_STATUS_LINE: "unavailable",
    Fault.BAD_CHUNK_SIZE: "unavailable",
    Fault.BAD_ENCODING: "unavailable",
    Fault.CUT_BODY: "unavailable",
    Fault.LONG_HEADER: "unavailable",
    Fault.BODY_OF_204: "unavailable",
    Fault.QUOTA_EXHAUSTED: "quota_exhausted",
    Fault.BILLING_LIMIT: "quota_exhausted",
    Fault.NO_CREDIT: "quota_exhausted",
    Fault.FORBIDDEN: "unavailable",
    Fault.MODEL_NOT_FOUND: "unavailable",
    Fault.NOT_TO_BE_RETRIED: "unavailable",
    Fault.NO_VALID_JSON: "malformed",
    Fault.ANSWER_CUT: "unavailable",
    Fault.ANSWER_ERROR: "unavailable",
    Fault.ANSWER_STALLS: "timeout",
    Fault.ANSWER_UNFINISHED: "truncated",
    Fault.GATEWAY_TIMEOUT: "unavailable",
    Fault.ENDLESS_BODY: "malformed",
    Fault.ENDLESS_ANSWER: "malformed",
    Fault.COMPRESSED_BODY: "unavailable",
}
# A stream says what the answer cost only after it.
STREAMED = {**EXPECTED, Fault.TEXT_USAGE: None, Fault.LIST_USAGE: None, Fault.TEXT_USAGE_DETAILS: None}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
async def test_every_fault_over_http_ends_in_a_full_list_of_candidates_marked_with_its_reason(
    llm_server: LLMServer, fault: Fault, streaming: bool
) -> None:
    llm_server.fail(fault)
    observer = RecordingObserver()
    model = OpenAILanguageModel(
        model="small",
        deep_model="large",
        api_key=SecretStr("key"),
        base_url=llm_server.base_url,
        timeout_s=0.3 if fault in (Fault.HANG, Fault.ANSWER_STALLS) else 10,
        max_retries=0,
        max_concurrency=4,
        streaming=streaming,
        observer=observer,
        clock=SystemClock(),
    )
    stage = Reranker(model, Explainer(PROFILE, TEXTS), observer, profile=PROFILE, texts=TEXTS)
    try:
        outcome = await stage.rerank(
            RerankRequest(
                candidates=CANDIDATES, liked=[make_item(99)], locale="ko", strategy=Strategy.DEFAULT, n_picks=20
            )
        )
    finally:
        await model.aclose()
    shown = [pick.candidate for group in outcome.groups for pick in group.picks]
    assert len({candidate.item.item_id for candidate in shown}) == len(shown) == 20
    assert all(candidate in CANDIDATES for candidate in shown)
    assert 2 <= len(outcome.groups) <= 6
    expected = (STREAMED if streaming else EXPECTED)[fault]
    assert outcome.degraded == expected
    assert observer.degradations == ([expected] if expected else [])
    assert llm_server.n_calls == outcome.usage.n_calls == 1


async def test_as_a_command_it_tells_its_address_counts_and_takes_faults_at_run_time() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.llm_server", "--port", "0", "--delay-s", "0.01"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            ready = (await process.stdout.readline()).decode()
        base_url = ready.removeprefix("llm_server ready ").strip()
        root = base_url.removesuffix("/v1")
        assert await post(f"{root}/faults", [{"kind": "server_error", "times": 1}]) == (200, {"n_faults": 1})
        statuses = [(await post(f"{base_url}/chat/completions", chat_body()))[0] for _ in range(2)]
        assert statuses == [500, 200]
        async with aiohttp.ClientSession() as http, http.get(f"{root}/stats") as response:
            stats = await response.json()
        assert (stats["n_calls"], stats["n_answered"], stats["in_flight"]) == (2, 1, 0)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


# --- manners ---


def picked(completion: dict[str, object]) -> list[object]:
    return [pick["h"] for group in json.loads(content(completion))["groups"] for pick in group["picks"]]


async def test_a_good_model_picks_the_relevant_first_a_reversed_one_last_and_a_shuffled_one_some(
    llm_server: LLMServer,
) -> None:
    relevant = set(range(1, 11))
    llm_server.relevant = lambda question: relevant & set(question.handles)
    found = {}
    for manner in (Manner.GOOD, Manner.SHUFFLED, Manner.REVERSED):
        llm_server.manner = manner
        found[manner] = len(relevant.intersection(picked(await ask(llm_server, chat_body(n_picks=20)))))
    assert found[Manner.GOOD] == 10
    assert 0 < found[Manner.SHUFFLED] < 10
    assert found[Manner.REVERSED] == 0


async def test_the_relevant_are_told_a_process_by_their_titles(llm_server: LLMServer) -> None:
    body = chat_body(n_picks=5)
    titles = [line.split(" | ")[0] for line in list(read_prompt(body).lines.values())[:5]]
    root = llm_server.base_url.removesuffix("/v1")
    await post(f"{root}/manner", {"manner": "good", "relevant_titles": titles})
    assert sorted(picked(await ask(llm_server, body)), key=str) == [1, 2, 3, 4, 5]


async def test_a_careless_model_tells_each_kind_of_lie_twice_among_as_many_true_sentences(
    llm_server: LLMServer,
) -> None:
    llm_server.manner = Manner.CARELESS
    for locale, language in (("en", "English"), ("ko", "Korean"), ("ja", "Japanese")):
        text = content(await ask(llm_server, chat_body(locale)))
        assert [text.count(lie) for lie in LIES[language]] == [2] * 5


async def test_whatever_a_hostile_model_says_only_what_was_shown_is_taken(llm_server: LLMServer) -> None:
    llm_server.manner = Manner.HOSTILE
    handles = dict(enumerate(CANDIDATES, 1))
    answer = parse_answer(content(await ask(llm_server, chat_body())), handles)
    assert {choice.candidate.item.item_id for choice in answer.choices} == {1, 2}
    assert answer.dropped["unknown_handle"] >= 3
    assert answer.dropped["repeated_handle"] == 2


# --- batches ---


class BatchClient:
    """The Batch API as its caller sees it."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url

    async def upload(self, n: int) -> str:
        lines = [{"custom_id": f"job-{i}", "method": "POST", "url": "/v1/x", "body": chat_body()} for i in range(n)]
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", "\n".join(map(json.dumps, lines)), filename="requests.jsonl")
        async with self._http.post(f"{self._url}/files", data=form) as response:
            response.raise_for_status()
            return str((await response.json())["id"])

    async def create(self, file_id: str) -> dict[str, Any]:
        asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return await self._json("POST", "batches", {**asked, "metadata": {"run": "night"}})

    async def poll(self, batch_id: object) -> dict[str, Any]:
        return await self._json("GET", f"batches/{batch_id}")

    async def ended(self, n: int) -> dict[str, Any]:
        batch = await self.create(await self.upload(n))
        while batch["status"] in ("validating", "in_progress"):
            batch = await self.poll(batch["id"])
        return batch

    async def lines(self, file_id: object) -> list[dict[str, Any]]:
        async with self._http.get(f"{self._url}/files/{file_id}/content") as response:
            return [json.loads(line) for line in (await response.text()).splitlines()]

    async def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        async with self._http.request(method, f"{self._url}/{path}", json=body) as response:
            response.raise_for_status()
            return dict(await response.json())


@pytest.fixture
async def batch_client(llm_server: LLMServer) -> AsyncIterator[BatchClient]:
    async with aiohttp.ClientSession() as http:
        yield BatchClient(http, llm_server.base_url)


async def test_a_batch_is_uploaded_polled_and_answered_as_calls_are(
    llm_server: LLMServer, batch_client: BatchClient
) -> None:
    llm_server.batches.plan.n_polls = 3
    batch = await batch_client.create(await batch_client.upload(2))
    seen = [(await batch_client.poll(batch["id"]))["status"] for _ in range(4)]
    assert [batch["status"], *seen] == ["validating", "in_progress", "in_progress", "completed", "completed"]
    batch = await batch_client.poll(batch["id"])
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    lines = await batch_client.lines(batch["output_file_id"])
    direct = await ask(llm_server, chat_body())
    assert [(line["custom_id"], line["response"]["body"]) for line in lines] == [("job-0", direct), ("job-1", direct)]
    assert llm_server.batches.paid == {"job-0": 1, "job-1": 1}
    assert llm_server.n_calls == 1


async def test_a_batch_may_fail_as_a_whole_and_costs_nothing(llm_server: LLMServer, batch_client: BatchClient) -> None:
    llm_server.batches.plan = BatchPlan(end="failed")
    batch = await batch_client.ended(2)
    assert (batch["status"], batch["output_file_id"]) == ("failed", None)
    assert batch["errors"]["data"][0]["code"] == "invalid_json_line"
    assert llm_server.batches.paid == {}


async def test_an_expired_batch_holds_what_was_done_in_time(llm_server: LLMServer, batch_client: BatchClient) -> None:
    llm_server.batches.plan = BatchPlan(end="expired")
    batch = await batch_client.ended(3)
    done, late = await batch_client.lines(batch["output_file_id"]), await batch_client.lines(batch["error_file_id"])
    assert [line["custom_id"] for line in done] == ["job-0", "job-2"]
    assert [(line["custom_id"], line["error"]["code"]) for line in late] == [("job-1", "batch_expired")]
    assert llm_server.batches.paid == {"job-0": 1, "job-2": 1}


async def test_single_requests_of_a_batch_may_fail(llm_server: LLMServer, batch_client: BatchClient) -> None:
    root = llm_server.base_url.removesuffix("/v1")
    assert await post(f"{root}/batch_plan", {"failing_every": 3}) == (200, {"paid": {}})
    batch = await batch_client.ended(4)
    assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    (failed,) = await batch_client.lines(batch["error_file_id"])
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("job-2", 400)


async def test_uploads_and_creations_may_be_refused_and_a_creation_lost_but_done(
    llm_server: LLMServer, batch_client: BatchClient
) -> None:
    llm_server.batches.plan = BatchPlan(n_uploads_refused=1, n_creations_refused=1, n_lost_creations=1)
    with pytest.raises(aiohttp.ClientResponseError, match="500"):
        await batch_client.upload(1)
    file_id = await batch_client.upload(1)
    with pytest.raises(aiohttp.ClientResponseError, match="500"):
        await batch_client.create(file_id)
    with pytest.raises(aiohttp.ClientConnectionError):
        await batch_client.create(file_id)
    async with aiohttp.ClientSession() as http, http.get(f"{llm_server.base_url}/batches") as response:
        (batch,) = (await response.json())["data"]
    assert batch["metadata"] == {"run": "night"}


async def test_the_sdk_can_use_the_batch_api(llm_server: LLMServer, batch_client: BatchClient) -> None:
    file_id = await batch_client.upload(1)
    async with openai.AsyncOpenAI(api_key="none", base_url=llm_server.base_url) as client:
        batch = await client.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        while batch.status in ("validating", "in_progress"):
            batch = await client.batches.retrieve(batch.id)
        assert [listed.id async for listed in client.batches.list()] == [batch.id]
        assert batch.output_file_id is not None
        text = (await client.files.content(batch.output_file_id)).text
        assert json.loads(text)["custom_id"] == "job-0"
        assert (await client.batches.cancel(batch.id)).status == "cancelled"
        assert (await client.files.delete(file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_99")


async def test_the_benchmark_asks_by_every_client() -> None:
    figures = await run(n_rounds=1, n_calls=4, in_flight=2, delay_s=0)
    assert {REFERENCE, OURS} < set(figures)
    assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in figures.values())

"""The test server is itself tested: what others measure by it must be true."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from core.prompting import build_prompt
from core.reranking import Reranker, parse_answer
from models.job import Strategy
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from tests.support.builders import make_candidate, make_item
from tests.support.llm_faults import Fault
from tests.support.llm_server import LLMServer, count_tokens, prompt_text
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
        outcome = await stage.rerank(CANDIDATES, [make_item(99)], locale="ko", strategy=Strategy.DEFAULT, n_picks=20)
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

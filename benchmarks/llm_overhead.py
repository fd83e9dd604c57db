"""CPU time that one LLM call costs the worker, by client: contestants side by side, in alternating rounds.

    .venv/bin/python -m benchmarks.llm_overhead [--rounds 7] [--calls 192] [--in-flight 64]

The server is a process of its own, which answers after ``--delay-s``; what counts is the CPU time of this process, all
threads. A round gives each contestant in turn so many calls, in an order that shifts; the figure is the median round.
"""

import argparse
import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import aiohttp
import httpx2
import openai
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.table import Table

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.ports.language_model import Prompt
from core.prompting import build_prompt
from services.clock import SystemClock
from services.language_model import OpenAILanguageModel
from services.metrics import PrometheusMetrics
from tests.support.builders import make_candidate, make_item
from tests.support.llm_process import LLMProcess

KEY = SecretStr("none")
OURS = "ours, as shipped"
REFERENCE = "with_structured_output"
BOUND = 0.55

Call = Callable[[Prompt], Awaitable[object]]
console = Console()


class _Pick(BaseModel):
    h: int
    r: str


class _Group(BaseModel):
    label: str
    tagline: str
    picks: list[_Pick]


class _Answer(BaseModel):
    taste: str
    groups: list[_Group]


def question(n_candidates: int = 100, n_likes: int = 30, n_picks: int = 20) -> Prompt:
    """The question of a usual job."""
    prompt, _ = build_prompt(
        [make_candidate(make_item(number)) for number in range(n_candidates)],
        [make_item(1000 + number) for number in range(n_likes)],
        locale="en",
        profile=load_profile("songs"),
        texts=load_prompt_texts(),
        n_picks=n_picks,
    )
    return prompt


def _messages(prompt: Prompt) -> list[ChatCompletionMessageParam]:
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]


def _response_format(prompt: Prompt) -> ResponseFormatJSONSchema:
    schema = dict(prompt.schema)
    return {"type": "json_schema", "json_schema": {"name": prompt.schema_name, "schema": schema, "strict": True}}


@asynccontextmanager
async def contestants(base_url: str, prompt: Prompt, in_flight: int) -> AsyncIterator[dict[str, Call]]:
    """Every way to ask, by name; each has its own connections."""
    limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    response_format, metrics = _response_format(prompt), PrometheusMetrics(CollectorRegistry(), clock=SystemClock())
    async with AsyncExitStack() as stack:
        usual = await stack.enter_async_context(openai.DefaultAsyncHttpxClient(limits=limits))
        light = await stack.enter_async_context(openai.DefaultAioHttpClient(limits=limits))
        bare = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight), trust_env=False)
        )
        chat = ChatOpenAI(model="any", api_key=KEY, base_url=base_url, http_async_client=usual)
        structured = chat.with_structured_output(_Answer, method="json_schema")
        sdk, light_sdk = (
            openai.AsyncOpenAI(api_key="none", base_url=base_url, http_client=http) for http in (usual, light)
        )

        def ours(*, streaming: bool) -> Call:
            model = OpenAILanguageModel(
                model="any",
                deep_model="any-deep",
                api_key=KEY,
                base_url=base_url,
                timeout_s=60,
                max_retries=2,
                max_concurrency=in_flight,
                streaming=streaming,
                observer=metrics,
                clock=SystemClock(),
            )
            stack.push_async_callback(model.aclose)

            async def shipped(prompt: Prompt) -> object:
                return _Answer.model_validate_json((await model.complete(prompt)).text)

            return shipped

        async def langchain(prompt: Prompt) -> object:
            return await structured.ainvoke([("system", prompt.system), ("user", prompt.user)])

        async def parsed(prompt: Prompt) -> object:
            return await sdk.chat.completions.parse(
                model="any",
                messages=_messages(prompt),
                response_format=_Answer,
            )

        def created(client: openai.AsyncOpenAI) -> Call:
            async def create(prompt: Prompt) -> object:
                completion = await client.chat.completions.create(
                    model="any",
                    messages=_messages(prompt),
                    response_format=response_format,
                )
                return _Answer.model_validate_json(completion.choices[0].message.content or "")

            return create

        async def by_hand(prompt: Prompt) -> object:
            body = {"model": "any", "messages": _messages(prompt), "response_format": response_format}
            async with bare.post(f"{base_url}/chat/completions", json=body) as response:
                document = json.loads(await response.read())
            return _Answer.model_validate_json(document["choices"][0]["message"]["content"])

        yield {
            REFERENCE: langchain,
            "SDK parse()": parsed,
            "SDK create(), schema built once": created(sdk),
            "the same, aiohttp transport": created(light_sdk),
            "bare aiohttp": by_hand,
            OURS: ours(streaming=False),
            "ours, streaming (chunks of 40 characters)": ours(streaming=True),
        }


async def cpu_ms_per_call(call: Call, prompt: Prompt, n_calls: int, in_flight: int) -> float:
    """CPU time of this process for each of ``n_calls``, ``in_flight`` of them at once."""
    remaining = iter(range(n_calls))

    async def caller() -> None:
        for _ in remaining:
            await call(prompt)

    gc.collect()
    started_s = time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.process_time() - started_s) / n_calls * 1000


async def run(n_rounds: int, n_calls: int, in_flight: int, delay_s: float) -> dict[str, list[float]]:
    """CPU time per call in ms, by contestant, of each round."""
    prompt = question()
    async with LLMProcess(delay_s=delay_s) as server, contestants(server.url, prompt, in_flight) as calls:
        figures: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            await cpu_ms_per_call(call, prompt, in_flight, in_flight)
        names = list(calls)
        for place in range(n_rounds):
            for name in (*names[place % len(names) :], *names[: place % len(names)]):
                figures[name].append(await cpu_ms_per_call(calls[name], prompt, n_calls, in_flight))
    return figures


def main() -> None:
    """Run, and print the table; ends with 1 where ours is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=192)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--delay-s", type=float, default=0.2)
    asked = parser.parse_args()
    figures = asyncio.run(run(asked.rounds, asked.calls, asked.in_flight, asked.delay_s))
    reference = median(figures[REFERENCE])
    table = Table("contestant", "CPU ms per call (rounds)", f"times {REFERENCE}", title=f"{asked.in_flight} in flight")
    for name, rounds in figures.items():
        spread = f"{median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"
        table.add_row(name, spread, f"{median(rounds) / reference:.2f}")
    console.print(table)
    raise SystemExit(int(median(figures[OURS]) > BOUND * reference))


if __name__ == "__main__":
    main()

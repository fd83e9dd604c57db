"""No secret is seen: real processes are run with secrets in every setting that can hold one, through every failure that
quotes what it was given; then all that they wrote, wherever they wrote it, is searched for each.
"""

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlsplit

import httpx
import orjson
import pytest
import redis
from aiohttp import web

from config.settings import Settings
from tests.support.catalogue import create_all_tables, insert_songs
from tests.support.empty_stores import recreate_database
from tests.support.loopback_http import serving
from tests.support.tls_servers import TlsServers, made_up_password
from tests.support.waiting import until
from tests.support.worker_process import WorkerProcess, worker
from workers.amqp_connection import AmqpConnection, AmqpTimings
from workers.runtime.parts import open_parts
from workers.topology import build_topology

pytestmark = pytest.mark.timeout(240)  # several real processes, and three servers where this test is the first

Environment = Mapping[str, str]

_WAITED_FOR = ("REDIS_URL", "DATABASE_URL")


@dataclass
class Told:
    """Everything that anybody could read of the processes, by where it stands; and what must not be in it."""

    secret: list[str]
    seen: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """What may stand nowhere: each half of each secret by itself, so that no quoting hides it, and base64."""
        words = [word for each in self.secret for word in each.split("/@:%?&=+")]
        whole = [f"{user}{each}" for each in self.secret for user in ("", ":", "songs:")]
        return [*words, *(base64.b64encode(each.encode()).decode().rstrip("=") for each in whole)]

    def leaks(self) -> list[str]:
        return [f"{where}: {word}" for where, text in self.seen.items() for word in self.words() if word in text]


class EchoingLLM:
    """Refuses every call with 401, and quotes the key that it was sent, as servers of the careless kind do."""

    def __init__(self) -> None:
        self.n_calls = 0

    async def refuse(self, request: web.Request) -> web.Response:
        self.n_calls += 1
        sent = request.headers.get("Authorization", "")
        message = f"Incorrect API key provided: {sent}; all headers: {dict(request.headers)}"
        return web.json_response({"error": {"message": message, "code": "invalid_api_key"}}, status=401)


@contextlib.asynccontextmanager
async def echoing_llm() -> AsyncIterator[tuple[EchoingLLM, str]]:
    llm, app = EchoingLLM(), web.Application()
    app.router.add_route("*", "/{path:.*}", llm.refuse)
    async with serving(app) as url:
        yield llm, f"{url}/v1"


def environment_of(servers: TlsServers, llm_url: str, keys: tuple[str, str], prefix: str) -> dict[str, str]:
    return {
        "BROKER_URL": servers.rabbitmq.tls_url(),
        "BROKER_CA_FILE": servers.rabbitmq.ca_file,
        "DATABASE_URL": servers.mysql.tls_url(),
        "DATABASE_CA_FILE": servers.mysql.ca_file,
        "REDIS_URL": servers.redis.tls_url(),
        "REDIS_CA_FILE": servers.redis.ca_file,
        "OPENAI_BASE_URL": llm_url,
        "OPENAI_API_KEY": keys[0],
        "API_KEY": keys[1],
        "API_KEY_FOR_READS": "false",
        "NAME_PREFIX": prefix,
        "RETRY_DELAYS_S": "0.2,0.5,1",
        "LLM_TIMEOUT_S": "3",
        "LLM_MAX_RETRIES": "0",
        "DEPENDENCY_TIMEOUT_S": "5",
        "LOG_LEVEL": "DEBUG",
    }


async def _ended(process: WorkerProcess) -> bool:
    return not process.is_running


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}").geturl()


async def run(told: Told, environment: Environment, *command: str) -> int:
    process = WorkerProcess(environment, command, forked=True)
    await process.launch()
    try:
        await until(lambda: _ended(process), within_s=60)
        code = await process.terminate()
    finally:
        await process.kill()
    told.seen[f"{command[0]}, errors"] = process.log
    return code


async def read_http(told: Told, client: httpx.AsyncClient, where: str, *paths: str) -> None:
    for path in paths:
        response = await client.get(path)
        told.seen[f"{where}, {path}"] = f"{response.headers} {response.text}"


async def keep_dead_letters(told: Told, environment: Environment) -> None:
    code = await run(told, {**environment, "LOG_LEVEL": "WARNING"}, "dead-letters", "list", "--json")
    assert code == 0


def keep_redis(told: Told, servers: TlsServers) -> None:
    with redis.Redis.from_url(servers.redis.url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            content: object = client.hgetall(key) if kind == b"hash" else client.dump(key)
            told.seen[f"Redis, {key!r}"] = repr(content)


@pytest.fixture
async def prepared(tls_servers: TlsServers) -> TlsServers:
    url = tls_servers.mysql.url
    with redis.Redis.from_url(tls_servers.redis.url) as client:
        client.flushall()
    songs = [
        {"song_id": n, "title_en": f"Song {n}", "artist": f"Artist {n % 9}", "genre": "jazz"} for n in range(1, 61)
    ]
    await asyncio.to_thread(recreate_database, url)
    await asyncio.to_thread(create_all_tables, url)
    await asyncio.to_thread(insert_songs, url, *songs)
    return tls_servers


async def test_no_secret_of_a_whole_run_is_seen_anywhere(prepared: TlsServers) -> None:
    keys = made_up_password(), made_up_password()
    wrong_key, wrong_password = made_up_password(), made_up_password()
    told = Told([*prepared.passwords, *keys, wrong_key, wrong_password])
    prefix = f"secrets.{secrets.token_hex(4)}"
    async with echoing_llm() as (llm, llm_url):
        environment = environment_of(prepared, llm_url, keys, prefix)
        assert await run(told, environment, "embed") == 0, told.seen
        async with worker(environment) as process, process.client() as client:
            await served_well_and_badly(told, environment, process, client, keys[1], wrong_key)
            await outages(prepared, process)
            await read_http(told, client, "worker", "/health", "/metrics", "/openapi.json")
            assert await process.terminate() == 0
            told.seen["worker, log"] = process.log
        assert llm.n_calls > 0
        for said in ("llm_access_refused", "WRONGTYPE", "Traceback", "http_request_failed", "dependency_check_failed"):
            assert said in told.seen["worker, log"], f"the run did not fail as it should: {said}"
        await keep_dead_letters(told, environment)
        keep_redis(told, prepared)
        await refused_everywhere(told, environment, wrong_password)
    assert told.leaks() == []


async def served_well_and_badly(
    told: Told, environment: Environment, process: WorkerProcess, client: httpx.AsyncClient, key: str, wrong_key: str
) -> None:
    """A job over TLS whose LLM call is refused, requests with and without the key, and bugs in both."""
    assert await run(told, environment, "publish", "--member", "7", "--favorites", "1,2,3", "--wait") == 0, (
        told.seen["publish, errors"][-3000:] + process.log[-3000:]
    )
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        assert (await client.post("/recommend", json={"memberId": 8}, headers=headers)).status_code == 200
    for headers in ({}, {"X-API-Key": wrong_key}, {"Authorization": f"Bearer {wrong_key}"}):
        response = await client.post("/recommend", json={"memberId": 8}, headers=headers)
        told.seen[f"refusal of {list(headers)}"] = f"{response.status_code} {response.headers} {response.text}"
        assert response.status_code == 401
    with redis.Redis.from_url(environment["REDIS_URL"], ssl_ca_certs=environment["REDIS_CA_FILE"]) as broken:
        broken.hset("recommend:9", "not", "a string")
    response = await client.post("/recommend/cached", json={"memberId": 9}, headers={"X-API-Key": key})
    assert response.status_code == 500
    told.seen["a bug over HTTP"] = f"{response.headers} {response.text}"


async def outages(servers: TlsServers, process: WorkerProcess) -> None:
    """Redis and MySQL go and come back."""
    async with process.client() as client:

        async def status() -> int:
            return (await client.get("/health")).status_code

        for server in (servers.redis, servers.mysql):
            await asyncio.to_thread(server.stop)
            await until(lambda: _is(status, 503), within_s=30)
            await asyncio.to_thread(server.start)
            await until(lambda: _is(status, 200), within_s=30)


async def _is(status: object, wanted: int) -> bool:
    return bool(await status() == wanted)  # type: ignore[operator]


async def refused_everywhere(told: Told, environment: Environment, wrong: str) -> None:
    """Every server refuses the password, then every URL holds one that somebody forgot to quote."""
    environment = {**environment, "HTTP_PORT": "0"}
    broker = {"BROKER_URL": with_password(environment["BROKER_URL"], wrong)}
    assert await run(told, {**environment, **broker}, "worker") == 2
    assert "refused the user or the password" in told.seen["worker, errors"]
    told.seen["wrong BROKER_URL"] = told.seen.pop("worker, errors")
    async with asyncio.TaskGroup() as group:
        for name in _WAITED_FOR:
            group.create_task(refused_while_it_waits(told, environment, name, wrong))
    for name, command in (("BROKER_URL", ["worker"]), ("REDIS_URL", ["result", "x"]), ("DATABASE_URL", ["embed"])):
        unquoted = environment[name].replace(quote("/", safe=""), "/")
        await run(told, {**environment, name: unquoted}, *command)
        told.seen[f"malformed {name}"] = told.seen.pop(f"{command[0]}, errors")
    assert "BROKER_URL is not a valid URL" in told.seen["malformed BROKER_URL"]
    assert "REDIS_URL is not a valid URL" in told.seen["malformed REDIS_URL"]


async def refused_while_it_waits(told: Told, environment: Environment, name: str, wrong: str) -> None:
    """A worker waits for these two, and says meanwhile what is wrong."""
    process = WorkerProcess({**environment, name: with_password(environment[name], wrong)}, forked=True)
    await process.launch()
    try:
        health = await process.first_health(40)
        assert health.status_code == 503
        told.seen[f"wrong {name}, /health"] = health.text
    finally:
        await process.terminate()
    told.seen[f"wrong {name}, log"] = process.log
    assert "dependency_check_failed" in process.log


# --- what a debugger or a careless f-string would show ---


async def test_no_secret_is_in_the_repr_of_any_part() -> None:
    password, key = made_up_password(), made_up_password()
    quoted = quote(password, safe="")
    told = Told([password, key])
    settings = Settings.model_validate({
        "broker_url": f"amqp://songs:{quoted}@127.0.0.1:1/",
        "database_url": f"mysql://songs:{quoted}@127.0.0.1:1/songs",
        "redis_url": f"redis://songs:{quoted}@127.0.0.1:1/0",
        "openai_api_key": key,
        "api_key": key,
    })  # fmt: skip
    async with open_parts(settings) as parts:
        for part in (settings, parts, *(getattr(parts, name) for name in parts.__slots__)):
            told.seen[type(part).__name__] = f"{part!r} {part!s}"
        told.seen["pool"] = repr(parts.redis.connection_pool)
        told.seen["engine"] = f"{parts.database.sync_url!r} {parts.database.sync_url}"
    told.seen["dump"] = repr(settings.model_dump()) + settings.model_dump_json()
    connection = AmqpConnection(f"amqp://me:{quoted}@host/", build_topology("t", (1,)), "declare", AmqpTimings(), "t")
    told.seen["connection"] = repr(connection)
    assert told.leaks() == []


async def test_the_search_finds_what_is_there() -> None:
    """Else it would find nothing in anything."""
    told = Told([made_up_password()])
    first, last = told.secret[0].split("/@:%?&=+")
    for leak in (
        told.secret[0],
        quote(told.secret[0], safe=""),
        f"the tail after an @: {last}",
        orjson.dumps({"password": first}).decode(),
        f"Basic {base64.b64encode(f'songs:{told.secret[0]}'.encode()).decode()}",
    ):
        told = replace(told, seen={"here": f"... {leak} ..."})
        assert told.leaks()
    told = replace(told, seen={"here": "amqp://songs:***@host"})
    assert told.leaks() == []

"""Notices on their way to real servers: what arrives, is tried again, is held back, and is never told."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.utils import format_datetime

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from config.settings import Settings
from core.errors import LanguageModelFailed
from core.ports.language_model import Admission, CallUse
from models.log_event import LogEvent
from models.notice import Notice, NoticeKind
from services.budget_notice import TellingGuard
from services.notice_channels import Mail, NoticeAddresses, document, open_notices, slack_document
from services.notices import Channel, NotSent, OutboundNotices
from services.redis_client import open_redis
from services.retry_after import seconds_of
from tests.support.hand_clock import HandClock
from tests.support.notice_servers import HookServer, MailServer, hook_server, mail_server
from tests.support.tls_servers import Certificates
from tests.support.waiting import until

PROMOTED = Notice(
    kind=NoticeKind.MODEL_PROMOTED, text="version 1 is in force: a < b & c", figures={"gain": 0.01, "n": 7}
)
REJECTED = Notice(kind=NoticeKind.MODEL_REJECTED, text="no")
HIDDEN = "s3cret-token"


@pytest.fixture
async def hooks() -> AsyncIterator[HookServer]:
    async with hook_server() as server:
        yield server


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


def addresses(*, slack: str = "", webhook: str = "", smtp: str = "") -> NoticeAddresses:
    return NoticeAddresses(
        slack=SecretStr(slack),
        webhook=SecretStr(webhook),
        smtp_url=SecretStr(smtp),
        mail_from="songs@example.com",
        mail_to="a@example.com, b@example.com",
    )


@asynccontextmanager
async def notices_to(
    where: NoticeAddresses, *, interval_s: float = 0, clock: HandClock | None = None
) -> AsyncIterator[OutboundNotices]:
    async with (
        open_redis("memory://", max_connections=2, timeout_s=1) as redis,
        open_notices(where, redis, clock or HandClock(), interval_s=interval_s) as notices,
    ):
        notices._first_wait_s = 0.01
        yield notices


# --- what arrives ---


async def test_a_notice_goes_by_every_way_that_is_set(hooks: HookServer, mail: MailServer) -> None:
    where = addresses(slack=f"{hooks.url}/slack", webhook=f"{hooks.url}/plain", smtp=f"smtp://localhost:{mail.port}")
    async with notices_to(where) as notices:
        await notices.tell(PROMOTED)
    sent = dict(zip(hooks.paths, hooks.bodies, strict=True))
    assert sent["/slack"] == {
        "text": "Songs AI, model promoted: version 1 is in force: a &lt; b &amp; c\ngain: 0.01\nn: 7"
    }
    assert sent["/plain"] == {
        "kind": "model_promoted",
        "text": "version 1 is in force: a < b & c",
        "figures": {"gain": 0.01, "n": 7},
        "at": "2026-03-01T12:00:00Z",
    }
    [text] = mail.messages
    message = message_from_string(text.replace("\r\n", "\n"))
    assert message["Subject"] == "Songs AI: model promoted"
    assert message["To"] == "a@example.com, b@example.com"
    assert "version 1 is in force: a < b & c\ngain: 0.01" in message.get_payload()
    assert [line.split(":")[1] for line in mail.recipients] == ["<a@example.com>", "<b@example.com>"]


async def test_without_an_address_nothing_is_sent_and_nothing_breaks() -> None:
    with capture_logs() as logs:
        async with notices_to(addresses()) as notices:
            await notices.tell(PROMOTED)
            notices.tell_soon(REJECTED)
    assert logs == []


def test_documents_are_plain_json() -> None:
    assert slack_document(REJECTED) == {"text": "Songs AI, model rejected: no"}
    assert document(REJECTED, datetime(2026, 1, 2, tzinfo=UTC))["at"] == "2026-01-02T00:00:00Z"


# --- what is tried again ---


async def test_what_is_refused_for_now_is_tried_again(hooks: HookServer) -> None:
    hooks.answers = [(500, {}), (429, {"Retry-After": "0"})]
    async with notices_to(addresses(webhook=hooks.url)) as notices:
        with capture_logs() as logs:
            await notices.tell(PROMOTED)
    assert len(hooks.bodies) == 3
    assert [each["event"] for each in logs] == [LogEvent.NOTICE_SENT]


@pytest.mark.parametrize("status", [400, 403, 404, 302])
async def test_what_is_refused_for_good_is_not(hooks: HookServer, status: int) -> None:
    hooks.answers = [(status, {"Location": f"{hooks.url}/elsewhere"})]
    async with notices_to(addresses(webhook=f"{hooks.url}/{HIDDEN}")) as notices:
        with capture_logs() as logs:
            await notices.tell(PROMOTED)
    assert len(hooks.bodies) == 1
    [line] = logs
    assert (line["event"], line["error"]) == (LogEvent.NOTICE_NOT_SENT, f"status {status}")


async def test_after_some_tries_a_notice_is_given_up(hooks: HookServer) -> None:
    hooks.answers = [(503, {})] * 9
    async with notices_to(addresses(slack=hooks.url)) as notices:
        await notices.tell(PROMOTED)
    assert len(hooks.bodies) == 4


class _Refusing:
    """A way that asks to wait, and is open at the second try."""

    name = "refusing"

    def __init__(self, wait_s: float | None) -> None:
        self.wait_s, self.n_tries = wait_s, 0

    async def send(self, notice: Notice) -> None:
        self.n_tries += 1
        if self.n_tries == 1:
            raise NotSent("later", wait_s=self.wait_s)


@pytest.mark.parametrize(("asked_s", "waited_s"), [(None, 1.0), (7.0, 7.0), (0.0, 0.0), (86_400.0, 60.0)])
async def test_the_wait_that_is_asked_for_is_kept_within_a_minute(
    asked_s: float | None, waited_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    channel: Channel = _Refusing(asked_s)
    async with open_redis("memory://", max_connections=2, timeout_s=1) as redis:
        notices = OutboundNotices([channel], redis, HandClock(), interval_s=0)
        monkeypatch.setattr("services.notices.asyncio.sleep", wait)
        await notices.tell(PROMOTED)
    assert waits == [waited_s]


def test_retry_after_is_seconds_or_a_date() -> None:
    assert seconds_of("120") == 120.0
    soon = seconds_of(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert soon is not None
    assert 80 < soon <= 90
    assert seconds_of(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)) == 0.0
    assert seconds_of(None) is seconds_of("") is seconds_of("soon") is None


# --- what is held back ---


async def test_of_each_kind_one_is_sent_in_an_interval(hooks: HookServer, redis_url: str) -> None:
    clock = HandClock()
    where = addresses(webhook=hooks.url)
    async with (
        open_redis(redis_url, max_connections=2, timeout_s=5) as redis,
        open_notices(where, redis, clock, interval_s=300) as ours,
        # Another process, which has told nothing yet.
        open_notices(where, redis, HandClock(), interval_s=300) as theirs,
    ):
        for _ in range(3):
            await ours.tell(PROMOTED)
        await ours.tell(REJECTED)
        assert [each["kind"] for each in hooks.bodies] == ["model_promoted", "model_rejected"]
        await theirs.tell(PROMOTED)
        assert len(hooks.bodies) == 2
        assert 0 < await redis.pttl("songs_ai:notice:model_promoted") <= 300_000
        await redis.delete("songs_ai:notice:model_promoted")
        clock.move(301)
        await ours.tell(PROMOTED)
        assert len(hooks.bodies) == 3


async def test_without_redis_a_process_counts_for_itself(hooks: HookServer) -> None:
    url = "redis://127.0.0.1:1"
    async with (
        open_redis(url, max_connections=2, timeout_s=1) as redis,
        open_notices(addresses(webhook=hooks.url), redis, HandClock(), interval_s=300) as notices,
    ):
        await notices.tell(PROMOTED)
        await notices.tell(PROMOTED)
    assert len(hooks.bodies) == 1


async def test_what_is_told_in_the_background_is_sent_before_the_end(hooks: HookServer) -> None:
    async with notices_to(addresses(webhook=hooks.url), interval_s=300) as notices:
        for _ in range(1000):
            notices.tell_soon(PROMOTED)
        assert hooks.bodies == []
    assert len(hooks.bodies) == 1


async def test_a_server_that_never_answers_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        name = "silent"

        async def send(self, notice: Notice) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("services.notices._GRACE_S", 0.05)
    async with open_redis("memory://", max_connections=2, timeout_s=1) as redis:
        notices = OutboundNotices([Silent()], redis, HandClock(), interval_s=0)
        notices.tell_soon(PROMOTED)
        await asyncio.wait_for(notices.aclose(), timeout=10)


# --- mail ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("mail"))


def _server_tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


async def test_a_password_is_sent_within_tls(certificates: Certificates) -> None:
    async with mail_server(_server_tls(certificates)) as server:
        where = addresses(smtp=f"smtps://me:{HIDDEN}%2F1@localhost:{server.port}")
        await Mail(where, tls=lambda: ssl.create_default_context(cafile=certificates.ca)).send(PROMOTED)
        assert server.logins == [f"\0me\0{HIDDEN}/1"]
        assert len(server.messages) == 1


async def test_a_password_is_never_sent_in_the_clear(mail: MailServer) -> None:
    with pytest.raises(NotSent) as caught:
        await Mail(addresses(smtp=f"smtp://me:{HIDDEN}@localhost:{mail.port}")).send(PROMOTED)
    assert caught.value.is_final
    assert (mail.logins, mail.messages) == ([], [])


async def test_a_mail_server_that_nobody_vouches_for_gets_nothing(certificates: Certificates) -> None:
    async with mail_server(_server_tls(certificates)) as server:
        with pytest.raises(NotSent):
            await Mail(addresses(smtp=f"smtps://me:{HIDDEN}@localhost:{server.port}")).send(PROMOTED)
        assert server.logins == []


@pytest.mark.parametrize(("refusal", "n_tries"), [("421 not now", 2), ("554 never", 1)])
async def test_a_busy_mail_server_is_tried_again(mail: MailServer, refusal: str, n_tries: int) -> None:
    mail.refusals = [refusal]
    async with notices_to(addresses(smtp=f"smtp://localhost:{mail.port}")) as notices:
        await notices.tell(PROMOTED)
    assert mail.n_connections == n_tries
    assert len(mail.messages) == n_tries - 1


# --- what is never told ---


@pytest.mark.parametrize(
    "where",
    [
        addresses(slack=f"http://127.0.0.1:1/services/{HIDDEN}"),
        addresses(webhook=f"no-url-at-all/{HIDDEN}"),
        addresses(webhook=f"http://{HIDDEN}:pw@[::bad/"),
        addresses(smtp=f"smtp://me:{HIDDEN}@127.0.0.1:1"),
    ],
)
async def test_no_log_line_holds_an_address(where: NoticeAddresses) -> None:
    assert HIDDEN not in repr(where)
    async with notices_to(where) as notices:
        with capture_logs() as logs:
            await notices.tell(PROMOTED)
    [line] = logs
    assert line["event"] == LogEvent.NOTICE_NOT_SENT
    assert HIDDEN not in str(line)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"notice_smtp_url": f"http://{HIDDEN}@host"}, "must begin with smtp"),
        ({"notice_smtp_url": f"smtp://me:{HIDDEN}@host"}, "needs notice_mail_from"),
    ],
)
def test_settings_of_mail_that_cannot_work_are_refused(given: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError, match=named) as caught:
        Settings(_env_file=None, **given)  # type: ignore[arg-type] # as the environment gives them
    assert HIDDEN not in str(caught.value)


# --- the budget ---


class _Spent:
    """A guard that refuses."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.settled: list[str] = []

    async def admit(self, model: str, **_: float) -> Admission:
        raise LanguageModelFailed(self._reason, "5 USD a day are spent")

    async def settle(self, admission: Admission, outcome: str, use: CallUse) -> float:
        self.settled.append(outcome)
        return 0.25


async def asked(guard: TellingGuard) -> None:
    with pytest.raises(LanguageModelFailed):
        await guard.admit("m", max_prompt_tokens=1, max_completion_tokens=1, patience_s=0)


async def test_a_spent_budget_is_told_once_and_refuses_as_before(hooks: HookServer) -> None:
    async with notices_to(addresses(webhook=hooks.url), interval_s=300) as notices:
        guard = TellingGuard(_Spent("over_spend"), notices, daily_usd=5)
        for _ in range(50):
            await asked(guard)

        async def has_come() -> bool:
            return len(hooks.bodies) == 1

        await until(has_come)
    assert hooks.bodies == [
        {
            "kind": "budget_reached",
            "text": "results are made without the LLM for now: over_spend: 5 USD a day are spent",
            "figures": {"LLM_DAILY_USD": 5},
            "at": "2026-03-01T12:00:00Z",
        }
    ]


async def test_other_refusals_are_nobodys_business(hooks: HookServer) -> None:
    inner = _Spent("breaker_open")
    async with notices_to(addresses(webhook=hooks.url)) as notices:
        guard = TellingGuard(inner, notices, daily_usd=5)
        await asked(guard)
        admission = Admission(model="m", token="t", max_prompt_tokens=1, max_completion_tokens=1)
        assert await guard.settle(admission, "ok", CallUse(prompt_tokens=1, completion_tokens=1)) == 0.25
    assert hooks.bodies == []
    assert inner.settled == ["ok"]

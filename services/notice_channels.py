"""The ways that notices go: a Slack-compatible webhook, a plain one, and e-mail."""

import asyncio
import json
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aiohttp
from pydantic import SecretStr
from redis.asyncio import Redis

from core.ports.clock import Clock
from models.notice import Notice
from services.notices import Channel, NotSent, OutboundNotices
from services.retry_after import seconds_of

_TIMEOUT_S = 10.0
_SMTP_PORTS = {"smtp": 587, "smtps": 465}
_OK, _TOO_MANY, _BROKEN = range(200, 300), 429, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeAddresses:
    """Where to; what is empty is not used. ``mail_to`` may be several, comma-separated."""

    slack: SecretStr
    webhook: SecretStr
    smtp_url: SecretStr
    mail_from: str
    mail_to: str


@asynccontextmanager
async def open_notices(
    addresses: NoticeAddresses, redis: Redis, clock: Clock, *, interval_s: float
) -> AsyncIterator[OutboundNotices]:
    """By all ways that have an address; what is being sent at the end has a few seconds for it."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        channels: list[Channel] = []
        if addresses.slack.get_secret_value():
            channels.append(Webhook("slack", session, addresses.slack, slack_document))
        if addresses.webhook.get_secret_value():
            channels.append(Webhook("webhook", session, addresses.webhook, lambda each: document(each, clock.now())))
        if addresses.smtp_url.get_secret_value():
            channels.append(Mail(addresses))
        notices = OutboundNotices(channels, redis, clock, interval_s=interval_s)
        try:
            yield notices
        finally:
            await notices.aclose()


def text_of(notice: Notice) -> str:
    """The sentence, and a line for each figure."""
    return "\n".join([notice.text, *(f"{name}: {value}" for name, value in notice.figures.items())])


def slack_document(notice: Notice) -> dict[str, object]:
    """https://api.slack.com/messaging/webhooks: ``&``, ``<`` and ``>`` are escaped, all else is text."""
    text = text_of(notice).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"Songs AI, {notice.kind.replace('_', ' ')}: {text}"}


def document(notice: Notice, at: datetime) -> dict[str, object]:
    """What a plain webhook is sent."""
    return {
        "kind": notice.kind,
        "text": notice.text,
        "figures": dict(notice.figures),
        "at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


class Webhook:
    """JSON by POST; redirects are not followed, for they may lead into the site's own network."""

    def __init__(
        self,
        name: str,
        session: aiohttp.ClientSession,
        url: SecretStr,
        document: Callable[[Notice], dict[str, object]],
    ) -> None:
        self.name, self._session, self._url, self._document = name, session, url, document

    async def send(self, notice: Notice) -> None:
        """See ``Channel.send``."""
        body, headers = json.dumps(self._document(notice)).encode(), {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self._url.get_secret_value(), data=body, headers=headers, allow_redirects=False
            ) as answer:
                status, retry_after = answer.status, answer.headers.get("Retry-After")
        # ValueError: what is no URL. Its sentence, as those of the others, may quote the address.
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            is_final = isinstance(error, ValueError)
            raise NotSent(type(error).__name__, is_final=is_final) from None
        if status not in _OK:
            is_final = status != _TOO_MANY and status < _BROKEN
            raise NotSent(f"status {status}", wait_s=seconds_of(retry_after), is_final=is_final)


class Mail:
    """E-mail by SMTP: ``smtps://`` within TLS, ``smtp://`` with STARTTLS where the server has it.

    A password is only ever sent within TLS, and certificates are verified.
    """

    name = "mail"

    def __init__(
        self, addresses: NoticeAddresses, *, tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    ) -> None:
        self._addresses, self._tls = addresses, tls

    async def send(self, notice: Notice) -> None:
        """See ``Channel.send``."""
        try:
            await asyncio.to_thread(self._send, self._message(notice))
        except smtplib.SMTPResponseException as error:
            # 4xx is for now, 5xx for good (RFC 5321, 4.2.1).
            raise NotSent(f"status {error.smtp_code}", is_final=error.smtp_code >= _BROKEN) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise NotSent(f"recipients refused, status {max(codes)}", is_final=min(codes) >= _BROKEN) from None
        except (smtplib.SMTPNotSupportedError, ValueError) as error:
            raise NotSent(type(error).__name__, is_final=True) from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotSent(type(error).__name__) from None

    def _message(self, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"Songs AI: {notice.kind.replace('_', ' ')}"
        message["From"], message["To"] = self._addresses.mail_from, self._addresses.mail_to
        message.set_content(text_of(notice))
        return message

    def _send(self, message: EmailMessage) -> None:
        url = urlsplit(self._addresses.smtp_url.get_secret_value())
        host, port = url.hostname or "", url.port or _SMTP_PORTS[url.scheme]
        with self._connected(url.scheme, host, port) as server:
            if url.scheme == "smtp" and server.has_extn("starttls"):
                server.starttls(context=self._tls())
                server.ehlo()
            if url.username:
                if not isinstance(server.sock, ssl.SSLSocket):
                    raise smtplib.SMTPNotSupportedError("no TLS")
                server.login(unquote(url.username), unquote(url.password or ""))
            server.send_message(message)

    def _connected(self, scheme: str, host: str, port: int) -> smtplib.SMTP:
        if scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_S, context=self._tls())
        else:
            server = smtplib.SMTP(host, port, timeout=_TIMEOUT_S)
        server.ehlo_or_helo_if_needed()
        return server

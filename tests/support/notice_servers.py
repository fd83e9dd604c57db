"""Servers that notices are sent to: one of webhooks and one of mail, both as their protocols say and no more."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.loopback_http import serving


@dataclass
class HookServer:
    """Answers what stands in ``answers``, one after the other and then 200; keeps what it was sent."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.paths.append(request.path)
        self.authorizations.append(request.headers.get("Authorization"))
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        return web.Response(status=status, headers=headers, text="ok")


@asynccontextmanager
async def hook_server() -> AsyncIterator[HookServer]:
    """On a loopback port of its own."""
    server, app = HookServer(), web.Application()
    app.router.add_post("/{path:.*}", server.answer)
    async with serving(app) as server.url:
        yield server


@dataclass
class MailServer:
    """RFC 5321 as far as it takes: greets, lets log in, takes a message; ``refusals`` come in place of greetings."""

    port: int = 0
    refusals: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    n_connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say(self.refusals.pop(0) if self.refusals else "220 here")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            verb = line.split(" ")[0].upper()
            match verb:
                case "EHLO":
                    say("250-here")
                    say("250 AUTH PLAIN")
                case "AUTH":
                    self.logins.append(base64.b64decode(line.split(" ")[2]).decode())
                    say("235 in")
                case "RCPT":
                    self.recipients.append(line)
                    say("250 ok")
                case "DATA":
                    say("354 go on")
                    self.messages.append((await reader.readuntil(b"\r\n.\r\n")).decode())
                    say("250 taken")
                case "QUIT":
                    say("221 bye")
                    return
                case _:
                    say("250 ok")


@asynccontextmanager
async def mail_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[MailServer]:
    """On a loopback port of its own, within TLS where a context is given."""
    mail = MailServer()
    server = await asyncio.start_server(mail.serve, "localhost", 0, ssl=tls)
    mail.port = server.sockets[0].getsockname()[1]
    try:
        yield mail
    finally:
        server.close()

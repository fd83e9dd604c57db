"""Where alerts arrive in a test: Slack, a mailbox, a webhook and a heartbeat, all on loopback ports."""

import email
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.policy import default
from pathlib import Path
from typing import Any

from tests.support.alert_files import Document, routes_of_a_test
from tests.support.notice_servers import HookServer, MailServer, hook_server, mail_server
from tests.support.waiting import until


@dataclass(frozen=True, slots=True)
class OnCall:
    """What people were sent, by each way; ``routes`` are the site's own, with these servers in place of its own."""

    hooks: HookServer
    mail: MailServer
    routes: Document

    def posted(self, way: str) -> list[dict[str, Any]]:
        """Bodies that came to ``slack``, ``webhook`` or ``heartbeat``."""
        return [body for body, path in zip(self.hooks.bodies, self.hooks.paths, strict=True) if path == f"/{way}"]

    def mails(self) -> list[tuple[str, str]]:
        """Subjects and texts."""
        parsed = [email.message_from_string(message, policy=default) for message in self.mail.messages]
        return [(each["Subject"], each.get_body(("plain",)).get_content()) for each in parsed]  # type: ignore[union-attr]

    def titles(self) -> set[str]:
        """Of all that came by Slack and by mail."""
        slack = {body["attachments"][0]["title"] for body in self.posted("slack")}
        return slack | {subject for subject, _ in self.mails()}

    def forget(self) -> None:
        """What came so far."""
        for kept in (self.hooks.bodies, self.hooks.paths, self.hooks.authorizations, self.mail.messages):
            kept.clear()

    async def told(self, title: str, *, within_s: float = 20.0) -> None:
        """Return once ``title`` has come; raises ``TimeoutError`` with what has come instead."""

        async def has_come() -> bool:
            return title in self.titles()

        try:
            await until(has_come, within_s=within_s)
        except TimeoutError as error:
            raise TimeoutError(f"{title!r} did not come, but {sorted(self.titles())}") from error


@asynccontextmanager
async def on_call(directory: Path) -> AsyncIterator[OnCall]:
    """Open all of these; secrets are written to ``directory``."""
    async with hook_server() as hooks, mail_server() as mail:
        yield OnCall(hooks, mail, routes_of_a_test(directory, hooks_url=hooks.url, mail_port=mail.port))

"""A worker and its API in this process, on made-up songs: what the dashboard's pages are tested over."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
from streamlit.testing.v1 import AppTest

from commands.demo import fill_catalogue, made_up_likes
from config.settings import Settings
from core.fitted_collaborative import MODEL_KIND
from dashboard.api_client import Api
from tests.support.private_servers import free_port
from workers.broker import OutgoingMessage
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.http import serving_http
from workers.runtime.parts import Parts, embedded, open_parts

N_SONGS, N_MEMBERS = 120, 6
SCRIPT_TIMEOUT_S = 30.0
_GIVEN_UP = {"x-dead-letter-reason": "attempts_used_up", "x-last-error-code": "BROKEN", "x-last-error": "no answer"}


@dataclass
class DashboardSite:
    """The API at ``url``; ``parts`` are what it is made of, for a test to change."""

    url: str
    api: Api
    parts: Parts

    async def page(self, name: str, language: str = "en", **state: object) -> AppTest:
        """A page as somebody opens it, with what their session holds already."""
        return await asyncio.to_thread(open_page, name, self.api, language, **state)

    async def bury(self, job_id: str, member_id: int = 1) -> None:
        """Put a dead letter into its queue."""
        main = self.parts.broker.topology.main
        asked_at = (datetime.now(UTC) - timedelta(minutes=3)).timestamp()
        body = orjson.dumps({"jobId": job_id, "memberId": member_id, "requestedAt": asked_at, "attempt": 3})
        await self.parts.broker.publish(
            OutgoingMessage(
                exchange=main.dead_letter_exchange, routing_key=main.dead_letter_key, body=body, headers=_GIVEN_UP
            )
        )

    async def keep_versions(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Model versions with these figures, put in force one after the other; their bytes are of no model."""
        for version, metrics in figures.items():
            await self.parts.models.save(MODEL_KIND, version, b"none", metrics)
            active = await self.parts.models.active_version(MODEL_KIND)
            await self.parts.models.promote(MODEL_KIND, version, instead_of=active, cause="fit", reason="better")


@asynccontextmanager
async def dashboard_site(directory: Path) -> AsyncIterator[DashboardSite]:
    """The site between its start and its end."""
    hidden = {name: value for name, value in os.environ.items() if not re.match("OPENAI_|API_KEY|HTTP_", name)}
    port = free_port()
    with patch.dict(os.environ, hidden, clear=True):
        # the model that a test keeps is none: nobody is to load it
        settings = Settings(_env_file=None, http_port=port, refresh_quiet_s=0.2, index_refresh_s=3600)
    async with open_parts(embedded(settings, directory)) as parts:
        await fill_catalogue(parts, (), 7, N_SONGS)
        await made_up_likes(parts, N_MEMBERS, 7)
        async with serving_http(parts, consuming=True):
            await prepare(parts)
            async with running_consumers(parts):
                url = f"http://127.0.0.1:{port}"
                with closing(Api(url)) as api:
                    yield DashboardSite(url, api, parts)


def open_page(name: str, api: Api, language: str = "en", **state: object) -> AppTest:
    """A page as somebody opens it, with what their session holds already."""
    script = AppTest.from_function(_script, default_timeout=SCRIPT_TIMEOUT_S, args=(name, api, language))
    for key, value in state.items():
        script.session_state[key] = value
    return script.run()


def _script(name: str, api: "Api", language: str) -> None:
    """What ``AppTest`` runs: its source is taken out of this module, and knows nothing of the module's names."""
    from importlib import import_module  # noqa: PLC0415

    from dashboard.problems import told_problems  # noqa: PLC0415
    from dashboard.texts import Texts  # noqa: PLC0415

    texts = Texts(language)
    with told_problems(texts, "page"):
        import_module(f"dashboard.views.{name}").show(api, texts)


def told(page: AppTest) -> str:
    """Every word that the page shows beside its buttons and inputs."""
    parts: list[Any] = [*page.title, *page.subheader, *page.markdown, *page.info, *page.error, *page.warning]
    return "\n".join(str(part.value) for part in [*parts, *page.success])


def labelled(page: AppTest, label: str) -> list[Any]:
    """The page's buttons of that label, in their order."""
    return [button for button in page.button if button.label == label]

"""The pages for people, built as `make docs` builds them: whole, with no dead link, and asking nobody else."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

import pytest
from typer.main import get_command

from config.settings import Settings
from docs.from_code import api_page
from docs.from_code.flow_picture import ARROWS, BOXES, PICTURE, picture
from main import app
from tests.support.browser import DESK, PHONE, Visit, launched
from tests.support.site_links import dead_links, fetched_from_elsewhere

ROOT = Path(__file__).parents[1]
# Whichever test is first waits for the site: 5 s of CPU time.
pytestmark = pytest.mark.timeout(150)
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built once."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("INFO")] == []
    assert "which is excluded from the built site" not in done.stderr
    return directory


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 35
    assert dead_links(site) == []


def test_a_browser_that_shows_it_asks_no_other_site(site: Path) -> None:
    assert fetched_from_elsewhere(site) == []


def test_nothing_that_was_meant_as_a_list_a_table_or_a_link_is_left_as_text(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert [f"{page.name}: {line[:80]}" for line in markdown_left_in(page.read_text(encoding="utf-8"))] == []


def markdown_left_in(html: str) -> list[str]:
    """Lines of the article, code and headings aside, that are Markdown yet: a list without an empty line before it."""
    article = html[html.find("<article") : html.find("</article>")]
    words = re.sub(r"<(pre|code|h\d)\b.*?</\1>", "x", article, flags=re.DOTALL)
    lines = unescape(re.sub(r"<[^>]+>", "", words)).splitlines()
    return [line for line in lines if re.search(r"\|---|^\s*\|.*\|\s*$|\]\(|\*\*|^\s*(?:[-*]|\d+\.) \S", line)]


@pytest.mark.parametrize("left", ["Words:\n- one", "1. one", "[a](b.md)", "**a**", "| a | b |\n", "|---|---|"])
def test_markdown_that_is_left_is_found(left: str) -> None:
    rest = "<h2>1. A</h2><p>Yes.</p><ul><li>fine</li></ul><pre>- code</pre><p>a - b</p>"
    assert len(markdown_left_in(f"<article>{rest}\n<p>{left}</p></article>")) == 1
    assert markdown_left_in(f"<article>{rest}</article>") == []


def test_every_setting_is_in_the_reference_with_its_default_and_a_place_of_its_own(site: Path) -> None:
    html = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    rows = {row[1]: row[0] for row in re.finditer(r'<tr>\s*<td><a id="(\w+)">.*?</tr>', html, re.DOTALL)}
    assert rows.keys() == Settings.model_fields.keys()
    assert "<code>0.6</code>" in rows["llm_order_weight"]
    assert "number, 0 to 1" in rows["llm_order_weight"]
    assert "secret" in rows["openai_api_key"]
    assert "whole number, from 1" in rows["max_attempts"]
    assert "<code>declare</code>, <code>passive</code>" in rows["topology_mode"]
    assert "true or false" not in rows["llm_streaming"]
    assert "<code>true</code>, <code>false</code>" in rows["llm_streaming"]
    assert "number, above 0" in rows["job_timeout_s"]


def test_every_command_is_in_the_reference_with_its_options(site: Path) -> None:
    page = text_of(site / "reference" / "commands.html")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]  # of a Click of Typer's own
        for path in [f"{name} {each}" for each in getattr(command, "commands", ())] or [name]:
            assert f"python main.py {path}" in page
        for parameter in command.params:
            assert [each for each in parameter.opts if each not in page and each.startswith("-")] == []
    assert "int, from 1 to 10000" in page


def test_every_route_is_in_the_reference_as_in_the_openapi_document(site: Path) -> None:
    page = text_of(site / "reference" / "routes.html")
    document = api_page.document()
    paths = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    assert len(paths) > 15
    assert [each for each in paths if each not in page] == []
    assert json.loads((site / "reference" / "openapi.json").read_text(encoding="utf-8")) == document
    assert '"memberId": 7' in page
    assert "integer, 1 to 100" in page


def test_every_metric_of_the_page_that_explains_them_is_in_the_reference_with_the_values_of_its_labels(
    site: Path,
) -> None:
    explained = re.findall(
        r"^\| `(songs_ai_\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    page = text_of(site / "reference" / "series.html")
    assert len(explained) > 50
    assert [name for name in explained if name not in page] == []
    assert "result: hit, miss" in page


def test_files_of_the_repository_that_pages_link_to_are_in_the_site_and_not_in_its_search(site: Path) -> None:
    assert "SongsAiNoWorker" in text_of(site / "source" / "deploy" / "prometheus" / "alerts.yml.html")
    assert "BROKER_URL=memory://" in text_of(site / "source" / "env.example.html")
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    assert "reference/settings.html#messaging" in places
    assert [place for place in places if place.startswith("source/")] == []


def test_the_program_that_makes_pages_is_no_page(site: Path) -> None:
    assert list(site.rglob("*.py")) == []


def test_the_picture_of_the_flow_is_the_one_that_is_drawn_and_stays_within_its_frame() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture()
    assert all(box.x >= 0 and box.x + box.width <= 940 and box.y + box.height <= 400 for box in BOXES)
    assert all(0 <= x <= 940 and 0 <= y <= 400 for arrow in ARROWS for x, y in arrow.points)


def test_no_two_boxes_of_the_picture_overlap() -> None:
    for one in BOXES:
        for other in BOXES:
            apart_x = one.x + one.width <= other.x or other.x + other.width <= one.x
            apart_y = one.y + one.height <= other.y or other.y + other.height <= one.y
            assert one is other or apart_x or apart_y


# --- the checks themselves ---


def test_links_to_missing_files_and_places_are_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1><a href="deep/b.html#here">1</a><a href="#top">2</a><a href="https://x.example/">3</a>'
    )
    (tmp_path / "deep" / "b.html").write_text('<p id="here"><a href="../index.html#%74op">4</a></p>')
    assert dead_links(tmp_path) == []
    (tmp_path / "deep" / "b.html").write_text(
        '<a href="../index.html#gone">5</a><a href="c.html">6</a><img src="d.png"><a href="#nowhere">7</a>'
    )
    assert [each.partition(": ")[2] for each in dead_links(tmp_path)] == [
        "../index.html#gone: no such place",
        "c.html: no such file",
        "#nowhere: no such place",
        "d.png: no such file",
        "deep/b.html#here: no such place",
    ]


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example" crossorigin>',
        '<img src="https://elsewhere.example/a.png">',
        "<style>@import 'https://fonts.example/css';</style>",
        "<style>p { background: url(https://elsewhere.example/a.png) }</style>",
        '<pre class="mermaid"><code>graph LR</code></pre>',
    ],
)
def test_what_would_be_fetched_from_elsewhere_is_found(tmp_path: Path, html: str) -> None:
    (tmp_path / "a.html").write_text(html)
    assert len(fetched_from_elsewhere(tmp_path)) == 1


def test_links_to_other_sites_and_what_is_ones_own_are_no_fetching(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="https://x.example/">x</a><link rel="canonical" href="https://x.example/">'
        '<script src="own.js"></script>'
    )
    assert fetched_from_elsewhere(tmp_path) == []


# --- in a browser ---


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The site on a port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(directory))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def reader(chromium: str, size: tuple[int, int]) -> AsyncIterator[Visit]:
    """Somebody with a screen of ``size``."""
    async with launched(chromium) as browser:
        context = await browser.new_context(viewport={"width": size[0], "height": size[1]})
        yield Visit(await context.new_page())


async def test_its_search_finds_and_nothing_is_asked_of_other_sites(site: Path, chromium: str) -> None:
    with served(site) as url:
        async with reader(chromium, DESK) as visit:
            asked: list[str] = []
            visit.page.on("request", lambda request: asked.append(request.url))
            await visit.page.goto(f"{url}index.html")
            await visit.page.locator("input.md-search__input").fill("dead letter")
            found = visit.page.locator(".md-search-result__link h1")
            await found.first.wait_for()
            assert "Reliability" in await found.all_inner_texts()
            assert f"{url}search/search_index.json" in asked
            assert [each for each in asked if not each.startswith((url, f"blob:{url}"))] == []
            assert visit.errors == []


async def test_pages_have_no_serious_barrier_by_day_and_night_and_fit_a_phone(site: Path, chromium: str) -> None:
    # Long pages are of the same parts, and axe takes its time with them.
    with served(site) as url:
        async with reader(chromium, PHONE) as visit:
            for name in ("getting-started", "comparisons"):
                for scheme in SCHEMES:
                    await visit.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                    await visit.page.goto(f"{url}{name}.html")
                    assert await visit.barriers() == []
                assert await visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
            assert visit.errors == []

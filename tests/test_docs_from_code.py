"""How pages are made of the code: tables, links to files of the repository, and settings under their headings."""

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from markdown import markdown

from docs.from_code import api_page, command_page, metrics_page, settings_page
from docs.from_code.linked_files import outside, page_of, relinked, source_page
from docs.from_code.tables import code, codes, plain, table

ROOT = Path(__file__).parents[1]


def cells(source: str) -> list[str]:
    """The cells of the one row that a table with ``source`` in it has, as HTML."""
    html = markdown(table(["a", "b"], [[source, "end"]]), extensions=["tables"])
    return [part.partition("</td>")[0] for part in html.split("<td>")[1:]]


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x1100), max_size=60))
def test_a_plain_cell_shows_any_text_as_it_stands(text: str) -> None:
    shown, end = cells(f"x{plain(text)}x")
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(entity, sign)
    assert end == "end"
    assert "".join(shown.split()) == "".join(f"x{text}x".split())


def test_a_column_in_which_nothing_stands_is_left_out() -> None:
    assert table(["a", "b", "c"], [["1", "", "2"], ["3", "", ""]]) == "| a | c |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |"


def test_code_in_a_cell_may_hold_what_parts_cells() -> None:
    assert cells(code("a|b")) == ["<code>a|b</code>", "end"]
    assert cells(codes(["a", "", "b"])) == ["<code>a</code>, , <code>b</code>", "end"]
    assert code("") == ""


@pytest.mark.parametrize(
    ("directory", "src_uri", "link", "expected"),
    [
        ("docs", "runbook.md", "../deploy/prometheus/alerts.yml", "source/deploy/prometheus/alerts.yml.md"),
        ("docs", "kubernetes.md", "../.env.example", "source/env.example.md"),
        ("docs", "upgrading.md", "../CHANGELOG.md", "changelog.md"),
        ("docs", "a.md", "../README.md#tests", "index.md#tests"),
        ("docs", "a.md", "metrics.md#events", "metrics.md#events"),
        ("docs/reference", "reference/a.md", "../b.md", "../b.md"),
        ("docs/reference", "reference/a.md", "../../main.py", "../source/main.py.md"),
        ("", "changelog.md", "docs/llm.md", "llm.md"),
        ("", "changelog.md", "config/profiles/songs.toml", "source/config/profiles/songs.toml.md"),
    ],
)
def test_links_lead_to_the_same_thing_within_the_site(directory: str, src_uri: str, link: str, expected: str) -> None:
    assert relinked(f"see [this]({link}).", directory, src_uri) == f"see [this]({expected})."


@pytest.mark.parametrize("link", ["https://example.org/a.md", "#here", "mailto:a@example.org", "/absolute"])
def test_links_that_lead_elsewhere_are_left_alone(link: str) -> None:
    assert relinked(f"[a]({link})", "docs", "x.md") == f"[a]({link})"
    assert list(outside(f"[a]({link})", "docs")) == []


def test_what_is_shown_as_code_is_no_link() -> None:
    text = "[a](../main.py)\n\n```\n[b](../LICENSE)\n```\n\n[c](../Makefile)\n"
    assert list(outside(text, "docs")) == ["main.py", "Makefile"]
    assert "[b](../LICENSE)" in relinked(text, "docs", "x.md")


def test_a_file_is_shown_whole_and_a_directory_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "a.yml").write_text("a: 1\n\n```\nfence\n```\n", encoding="utf-8")
    assert "# deploy/a.yml\n\n````yaml\na: 1\n\n```\nfence\n```\n````\n" in source_page(tmp_path, "deploy/a.yml")
    assert "- `deploy/a.yml`" in source_page(tmp_path, "deploy")
    assert page_of("deploy/") == "source/deploy.md"
    with pytest.raises(FileNotFoundError):
        source_page(tmp_path, "gone.txt")


def test_settings_stand_under_the_headings_of_the_example(tmp_path: Path) -> None:
    example = tmp_path / ".env.example"
    example.write_text("# All.\n\n# --- One ---\n# words\nHTTP_PORT=8000\n\n# --- Two ---\nLLM_STREAMING=false\n")
    page = settings_page.page(example)
    assert page.index("## One") < page.index("`HTTP_PORT`") < page.index("## Two") < page.index("`LLM_STREAMING`")
    assert "whole number, 0 to 65535" in page


def test_series_are_the_same_whenever_they_are_read() -> None:
    assert metrics_page.page() == metrics_page.page()
    assert "`songs_ai_recommendations_total` | counter | " in metrics_page.page()
    assert "| `songs_ai_recommendation_duration_seconds` | 0." in metrics_page.page()


def section_of(page: str, route: str) -> str:
    return page.partition(f"### {route}\n")[2].partition("\n### ")[0].partition("\n## ")[0]


def test_each_answer_of_a_route_is_shown_whatever_its_status() -> None:
    page = api_page.page(api_page.document())
    events, seeds = section_of(page, "POST /events"), section_of(page, "POST /recommend/seeds")
    assert "Answer 202, `application/json`:" in events
    assert '"accepted": 1' in events
    assert "Answer 200, `application/json`:" in seeds
    assert seeds.index("Answer 200") < seeds.index("Answer 202") < seeds.index("Answers: 200 ")
    assert "Answer 503, `application/json`:" in section_of(page, "GET /health/ready")
    assert "```text\nevent: running\ndata: {" in section_of(page, "GET /jobs/{job_id}/events")
    assert "```text\n# HELP " in section_of(page, "GET /metrics")
    assert all("```" in section_of(page, heading) for heading in headings_of(page))


def headings_of(page: str) -> list[str]:
    return [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")]


def test_refusals_are_shown_once_for_each_status() -> None:
    refusals = api_page.page(api_page.document()).partition("\n## Refusals\n")[2]
    assert [line[:3] for line in refusals.splitlines() if line[:3].isdigit()] == [
        "400", "401", "403", "404", "413", "415", "422", "429", "500", "503",
    ]  # fmt: skip
    assert refusals.count("```json\n") == 10
    assert (
        "application/problem+json"
        not in api_page.page(api_page.document()).partition("\n## Health\n")[2].partition("\n## Refusals\n")[0]
    )


def test_what_a_field_takes_is_told_with_its_range() -> None:
    page = api_page.page(api_page.document())
    assert "| `limit` | integer, 1 to 100 |" in section_of(page, "POST /recommend/seeds")
    assert "| `ready` | `true` | yes |" in section_of(page, "GET /health")
    checks = "| `checks` | object, each value: object of `status`, `reason`, `latency_ms`, `checked_at` | yes |"
    assert checks in section_of(page, "GET /health")


def test_commands_say_what_they_take_and_hidden_ones_nothing() -> None:
    app = typer.Typer()

    @app.command(rich_help_panel="Do", epilog="Examples:\n\npython main.py run A\n\npython main.py run B --loud")
    def run(
        name: str = typer.Argument(help="Whose."),
        times: int = typer.Option(3, min=1, help="How often."),
        *,
        loud: bool = typer.Option(False, "--loud", help="Loudly."),
    ) -> None:
        """Run it.

        Twice, if
        need be.
        """

    @app.command(hidden=True)
    def secret() -> None:
        """Not for everybody."""

    page = command_page.page(app)
    assert "## Do\n\n### run\n" in page
    assert "Run it.\n\nTwice, if need be.\n" in page
    assert "| `name` | text | required | Whose. |" in page
    assert "| `--times` | int, from 1 | `3` | How often. |" in page
    assert "| `--loud` |  |  | Loudly. |" in page
    assert "```\npython main.py run A\npython main.py run B --loud\n```\n" in page
    assert "secret" not in page

"""What the README says is there, is there."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from config.settings import Settings
from main import app
from tests.test_settings import shown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
HEADINGS = [
    "See it in a minute",
    "Run it for real",
    "What happens when things fail",
    "Configuration",
    "Layout",
    "Tests",
    "Glossary",
]


def test_it_is_short_and_in_order() -> None:
    assert len(README.splitlines()) < 150
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == HEADINGS


def test_every_command_that_it_names_exists_with_its_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group, since the app has many commands
    named = re.findall(r"main\.py ([a-z-]+)([^#\n]*)", README)
    assert named
    for name, rest in named:
        command = commands[name]
        if hasattr(command, "commands"):
            command = command.commands[rest.split()[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options


def test_every_make_target_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_its_defaults_are_those_of_the_settings() -> None:
    for name, default in re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", README, re.MULTILINE):
        field = Settings.model_fields[name.lower()]
        assert default == (shown(field.default) or "none")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    local = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_leads_to_a_place_that_its_page_does_not_have(page: Path) -> None:
    links = re.findall(r"\]\(([^):#\s]*\.md|)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    targets = [(page.parent / name if name else page, place) for name, place in links]
    assert [f"{target.name}#{place}" for target, place in targets if place not in _places(target)] == []


def _places(page: Path) -> set[str]:
    """What hosts of repositories call the headings of a page: small letters, without marks, spaces as hyphens."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_calls_as_a_witness_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in code] == []
    assert [name for name in re.findall(r"`(tests/\w+\.py)`", text) if not (ROOT / name).exists()] == []

"""Programs that tests run beside the servers: found, or installed from Debian's packages where root and apt allow."""

from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

import pytest

from tests.support import debian_packages
from tests.support.private_servers import find_program

Install = Callable[[Sequence[str]], str | None]


class Program(StrEnum):
    """By the name of the executable, as Debian calls it."""

    PROMETHEUS = "prometheus"
    PROMTOOL = "promtool"
    ALERTMANAGER = "prometheus-alertmanager"
    AMTOOL = "amtool"
    CHROMIUM = "chromium"


PACKAGES = {
    Program.PROMETHEUS: "prometheus",
    Program.PROMTOOL: "prometheus",
    Program.ALERTMANAGER: "prometheus-alertmanager",
    Program.AMTOOL: "prometheus-alertmanager",
    Program.CHROMIUM: "chromium",
}


def install_missing(
    programs: Collection[Program],
    say: Callable[[str], None],
    *,
    find: Callable[[str], str | None] = find_program,
    install: Install | None = None,
) -> None:
    """Install the packages of those ``programs`` that are not there; whoever needs one that stays missing skips."""
    packages = sorted({PACKAGES[program] for program in programs if find(program) is None})
    install = install or (debian_packages.install if debian_packages.can_install() else None)
    if not packages or install is None:
        return
    say(f"installing Debian's packages {' '.join(packages)}, once (their services stay stopped)")
    if complaint := install(packages):
        say(f"apt could not install them:\n{complaint}")


def program_or_skip(program: Program, *, is_ci: bool, find: Callable[[str], str | None] = find_program) -> str:
    """The path of ``program``; without it the test that asks skips, and fails where ``is_ci``."""
    if path := find(program):
        return path
    advice = f"no {program}: install it (on Debian: apt-get install {PACKAGES[program]})"
    if is_ci:
        pytest.fail(f"{advice} (CI is set, so this is a failure)", pytrace=False)
    pytest.skip(advice)

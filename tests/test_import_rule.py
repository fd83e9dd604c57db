"""Imports point down only, and the check that says so can fail."""

import shutil
from pathlib import Path

import pytest

from tests.support.import_rule import PACKAGES, violations

ROOT = Path(__file__).parents[1]


def test_the_house_keeps_its_import_rule() -> None:
    assert violations(ROOT) == []


def test_one_bad_import_in_the_house_would_be_found(tmp_path: Path) -> None:
    for package in PACKAGES:
        if (ROOT / package).is_dir():
            shutil.copytree(ROOT / package, tmp_path / package)
    ports = tmp_path / "core" / "ports" / "clock.py"
    ports.write_text(ports.read_text(encoding="utf-8") + "\nfrom services import anything\n", encoding="utf-8")
    [found] = violations(tmp_path)
    assert found.startswith("core/ports/clock.py:")


def test_every_package_of_the_house_is_known_to_the_rule() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - PACKAGES <= {"benchmarks", "migrations", "tests"}


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("models/job.py", "import config.settings", "models must not import config"),
        ("config/settings.py", "from models.job import Job", "config must not import models"),
        ("core/pipeline.py", "from services.redis import Cache", "core must not import services"),
        ("core/pipeline.py", "from services import redis", "core must not import services"),
        ("core/pipeline.py", "import models.job, api.app", "core must not import api"),
        ("workers/handler.py", "from services.redis import Cache", "workers must not import services"),
        ("workers/handler.py", "from ..api import app", "workers must not import api"),
        ("services/redis.py", "import workers.handler", "services must not import workers"),
        ("services/deep/redis.py", "from ...workers import handler", "services must not import workers"),
        ("api/app.py", "from services.redis import Cache", "api must not import services"),
        ("training/ingest.py", "from services.redis import Cache", "training must not import services"),
        ("training/ingest.py", "from workers.handler import handle", "training must not import workers"),
        ("services/redis.py", "import main", "imports main, which stands above everything"),
        ("commands/jobs.py", "import main", "imports main, which stands above everything"),
        ("training/ingest.py", "from commands.running import run", "imports commands.running, which stands above"),
        (
            "workers/runtime/parts.py",
            "from commands.running import run",
            "imports commands.running, which stands above",
        ),
        ("workers/handler.py", "from workers.runtime import parts", "imports workers.runtime, which stands above"),
        ("workers/handler.py", "from .runtime.parts import Parts", "imports workers.runtime.parts, which stands above"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(tmp_path: Path, path: str, source: str, problem: str) -> None:
    plant(tmp_path, {path: f"x = 1\n{source}\n"})
    [found] = violations(tmp_path)
    assert found.startswith(f"{path}:2: ")
    assert problem in found


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from services.redis import Cache\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from services.redis import Cache\n",
        "class A:\n    import services\n",
        "import importlib\nimportlib.import_module('services.redis')\n",
        "from importlib import import_module\nimport_module('services.redis')\n",
        "__import__('services')\n",
        "try:\n    import services.redis\nexcept ImportError:\n    pass\n",
    ],
)
def test_an_import_cannot_hide(tmp_path: Path, source: str) -> None:
    plant(tmp_path, {"core/pipeline.py": source})
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize("root", ["main.py", "commands/jobs.py", "workers/runtime/parts.py"])
def test_the_composition_roots_may_import_everything_below(tmp_path: Path, root: str) -> None:
    source = (
        "import services.redis\nimport api.app\nimport core.ports\nimport training.ingest\nimport workers.handler\n"
    )
    plant(tmp_path, {root: source})
    assert violations(tmp_path) == []


def test_the_command_line_may_import_the_runtime_but_the_runtime_not_the_command_line(tmp_path: Path) -> None:
    parts = "workers/runtime/parts.py"
    plant(tmp_path, {"main.py": "from workers.runtime import parts\n", parts: ""})
    assert violations(tmp_path) == []
    plant(tmp_path, {"main.py": "import commands.jobs\n", "commands/jobs.py": "from workers.runtime import parts\n"})
    assert violations(tmp_path) == []
    plant(tmp_path, {"main.py": "", "commands/jobs.py": "", parts: "import main\n"})
    assert violations(tmp_path) == [f"{parts}:1: imports main, which stands above everything"]


def test_other_peoples_packages_are_nobodys_business(tmp_path: Path) -> None:
    plant(tmp_path, {"models/job.py": "import numpy\nfrom pydantic import BaseModel\nimport configparser\n"})
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    "files",
    [
        {"core/a.py": "import core.b\n", "core/b.py": "import core.a\n"},
        {"core/a.py": "from core import b\n", "core/b.py": "def f():\n    from .a import x\n"},
        {
            "core/a.py": "from core.b import x\n",
            "core/b.py": "from core.c import x\n",
            "core/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from core.a import x\n",
        },
    ],
)
def test_a_cycle_is_found(tmp_path: Path, files: dict[str, str]) -> None:
    plant(tmp_path, files)
    [found] = violations(tmp_path)
    assert found.startswith("import cycle: core.")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nURL = os.environ['URL']\n",
        "import os\nURL = os.getenv('URL')\n",
        "from os import environ\n",
        "import os\nclass Settings:\n    url = os.environ.get('URL')\n",
        "import os\ndef f(url=os.environ.get('URL')):\n    pass\n",
    ],
)
def test_reading_the_environment_at_import_is_found(tmp_path: Path, source: str) -> None:
    plant(tmp_path, {"services/redis.py": source})
    [found] = violations(tmp_path)
    assert found.endswith("reads the environment at import")


def test_reading_the_environment_when_called_is_not_an_import_matter(tmp_path: Path) -> None:
    plant(tmp_path, {"main.py": "import os\ndef f():\n    return os.environ['URL']\ng = lambda: os.getenv('URL')\n"})
    assert violations(tmp_path) == []


@pytest.mark.parametrize("path", ["core/utils.py", "services/common/redis.py", "workers/base.py", "api/manager.py"])
def test_a_name_that_says_nothing_is_found(tmp_path: Path, path: str) -> None:
    plant(tmp_path, {path: ""})
    [found] = violations(tmp_path)
    assert found.endswith("says nothing about what is in it")


def test_an_init_file_that_is_not_empty_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {"core/__init__.py": '"""The core."""\n'})
    assert violations(tmp_path) == ["core/__init__.py: __init__.py must be empty"]


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")

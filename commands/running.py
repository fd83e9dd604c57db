"""Runs a command to its end: settings in, and parts of the program that not every machine has."""

from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from commands.screen import MISCONFIGURED, stop
from config.secret_values import secret_values
from config.setting_problems import setting_problems
from config.settings import Settings
from services.logs import LogLevel, configure_logging

Step = Callable[[Settings], Coroutine[Any, Any, None]]


def run(step: Step, *, log_level: LogLevel | None = None) -> None:
    """Run ``step`` to its end."""
    uvloop.run(step(read_settings(log_level)))


def read_settings(log_level: LogLevel | None = None) -> Settings:
    """The settings, and logging as they say; the process ends where they are wrong."""
    try:
        settings = Settings()
    except (ValidationError, SettingsError, UnicodeDecodeError) as error:
        stop("\n".join(setting_problems(error, Settings)), MISCONFIGURED)
    configure_logging(log_level or settings.log_level, settings.log_format, secrets=secret_values(settings))
    return settings


def offline_step(name: str) -> Any:  # noqa: ANN401 - a module
    """A module of ``training`` that needs scipy, which is not where the worker serves."""
    try:
        return import_module(f"training.{name}")
    except ModuleNotFoundError as error:
        stop(f"{error.name} is missing: pip install -r requirements-train.txt", MISCONFIGURED)

"""Runs a command to its end: settings in, and parts of the program that not every machine has."""

import logging
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from commands.screen import MISCONFIGURED, log_stream, stop, under_way
from config.secret_values import secret_values
from config.setting_problems import setting_problems
from config.settings import MEMORY_URL, Settings
from core.errors import ConfigurationError, SettingsRefused
from models.log_event import LogEvent
from services.logs import LogLevel, configure_logging, unsaid
from workers.broker import Broker

# A worker waits longer for a broker: it is not looked at meanwhile.
BROKER_S = 10.0

Step = Callable[[Settings], Coroutine[Any, Any, None]]


def run(step: Step, *, log_level: LogLevel | None = None) -> None:
    """Run ``step`` to its end."""
    uvloop.run(step(read_settings(log_level)))


def read_settings(log_level: LogLevel | None = None) -> Settings:
    """The settings, and logging as they say. Raises ``SettingsRefused`` where they are wrong."""
    try:
        settings = Settings()
    except (ValidationError, SettingsError, UnicodeDecodeError) as error:
        # Not from it: what it quotes may be a key.
        raise SettingsRefused("\n".join(setting_problems(error, Settings))) from None
    configure_logging(
        log_level or settings.log_level,
        settings.log_format,
        secrets=secret_values(settings),
        stream=log_stream(),
    )
    return settings


def need_a_broker(settings: Settings, lost: str) -> None:
    """Raise ``ConfigurationError`` where queues are in this process's memory, which says what is ``lost`` there."""
    if settings.broker_url.get_secret_value() == MEMORY_URL:
        raise ConfigurationError(
            f"BROKER_URL is {MEMORY_URL}, where {lost}: name the RabbitMQ that the workers consume from "
            "(amqp://USER@HOST:5672/VHOST)"
        )


def need_a_redis(settings: Settings, lost: str) -> None:
    """Raise ``ConfigurationError`` where Redis is in this process's memory, which says what is ``lost`` there."""
    if settings.redis_url.get_secret_value() == MEMORY_URL:
        raise ConfigurationError(
            f"REDIS_URL is {MEMORY_URL}, where {lost}: name the workers' Redis (redis://HOST:6379/0)"
        )


def unseen_servers(settings: Settings) -> tuple[str, ...]:
    """``redis``, ``broker`` or both, where what other processes keep in it is not seen: it is in memory."""
    urls = {"redis": settings.redis_url, "broker": settings.broker_url}
    return tuple(server for server, url in urls.items() if url.get_secret_value() == MEMORY_URL)


async def start(broker: Broker, *, within_s: float | None = None) -> None:
    """Connect to it. Raises ``DependencyUnavailable`` where it does not answer."""
    # Both tell of every try; here the sentence at the end says all.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    with under_way("waiting for the broker"), unsaid(LogEvent.BROKER_DISCONNECTED):
        await broker.start(within_s=BROKER_S if within_s is None else within_s)


def offline_step(name: str) -> Any:  # noqa: ANN401 - a module
    """A module of ``training`` that needs scipy, which is not where the worker serves."""
    try:
        return import_module(f"training.{name}")
    except ModuleNotFoundError as error:
        stop(f"{error.name} is missing: pip install -r requirements-train.txt", MISCONFIGURED)

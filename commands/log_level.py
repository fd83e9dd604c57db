"""The level of log lines of all workers that run."""

from typing import Literal

from commands.running import need_a_redis, run
from commands.screen import for_machines, say, tell_json
from config.settings import Settings
from services.log_level import RedisLogLevel
from workers.runtime.parts import redis_of

Word = Literal["DEBUG", "INFO", "WARNING", "ERROR", "own"]


def log_level(*, level: Word, minutes: int, as_json: bool) -> None:
    """Change what all running workers log, for a while."""

    async def change(settings: Settings) -> None:
        need_a_redis(settings, "no worker sees what is said here")
        async with redis_of(settings) as redis:
            told = RedisLogLevel(redis, group=settings.name_prefix)
            if level == "own":
                await told.clear()
                say("All workers log by their own LOG_LEVEL again.")
            else:
                await told.set(level, for_s=60 * minutes)
                say(f"All workers log from {level} on for {minutes} minutes.")
        if as_json:
            tell_json({"level": level, "minutes": None if level == "own" else minutes})

    with for_machines(as_json):
        run(change)

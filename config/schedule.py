"""When the scheduled tasks run: one cron expression each, changed by ``SCHEDULE``."""

from collections.abc import Mapping
from typing import Annotated

from apscheduler.triggers.cron import CronTrigger
from pydantic import AfterValidator, BaseModel, ConfigDict


def _valid(expression: str) -> str:
    if expression:
        CronTrigger.from_crontab(expression)
    return expression


Cron = Annotated[str, AfterValidator(_valid)]


class Schedule(BaseModel):
    """Cron expressions of five fields, in ``TIME_ZONE``; an empty one: the task does not run by itself.

    Fitting needs what ``requirements-train.txt`` installs, which the serving image leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed: Cron = "15 3 * * *"
    clean_up: Cron = "45 3 * * *"
    refresh: Cron = "0 4 * * *"
    fit: Cron = ""
    digest: Cron = "0 9 * * *"

    @property
    def expressions(self) -> Mapping[str, str]:
        """By task, of those that run."""
        return {task: expression for task, expression in self.model_dump().items() if expression}


TASK_NAMES = tuple(Schedule.model_fields)

"""Every way in which a job can fail; the class decides what becomes of the delivery (``workers/disposition.py``).

One root, three branches: what is wrong with the *message* is dead-lettered, what is wrong with a *dependency* is tried
again later, and what is wrong with the *language model* never fails a job at all.
"""


class SongsAIError(Exception):
    """The root. ``code`` is what a poller of the job's status sees as ``error.code``."""

    code = "INTERNAL_ERROR"


class InvalidMessage(SongsAIError):
    """A message that can never be handled: ``field`` and ``value`` say what is wrong with it.

    ``job_id`` is the job's id where one could be read all the same, so that its status can be made ``failed``. The
    sentence can always be written as UTF-8, whatever the message held.
    """

    code = "INVALID_JOB"

    def __init__(self, field: str, value: object, problem: str, *, job_id: str | None = None) -> None:
        super().__init__(encodable(f"{field}: {problem}, got {_shown(value)}"))
        self.field = field
        self.job_id = job_id


def encodable(text: str) -> str:
    """``text`` with every lone surrogate escaped: JSON may name one, but neither Redis nor AMQP can be sent it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of more digits than Python writes
        return f"a value of type {type(value).__name__} that cannot be shown"
    return shown if len(shown) <= 120 else shown[:117] + "..."  # noqa: PLR2004 - a log line, not a dump


class DependencyUnavailable(SongsAIError):
    """MySQL, Redis or the broker did not answer, or not in time: the same job may succeed later."""

    code = "DEPENDENCY_UNAVAILABLE"

    def __init__(self, dependency: str, problem: str) -> None:
        super().__init__(f"{dependency}: {problem}")
        self.dependency = dependency


class JobTimedOut(SongsAIError):
    """The whole job took longer than ``job_timeout_s``; a dependency is slow, so it is tried again later."""

    code = "GENERATION_TIMEOUT"


class JobStale(SongsAIError):
    """The job was asked for longer than ``job_max_age_s`` ago: nobody waits for it any more."""

    code = "STALE"


class MemberForgotten(SongsAIError):
    """The member was forgotten after the job was asked for: nothing may be kept of it."""

    code = "MEMBER_FORGOTTEN"


class DeliveredTooOften(SongsAIError):
    """The job came back to its queue again and again, never settled: it seems to kill the workers that it is given."""

    code = "DELIVERED_TOO_OFTEN"


class PublishRefused(DependencyUnavailable):
    """The broker did not confirm a publish, or no queue was bound to take the message."""

    def __init__(self, problem: str) -> None:
        super().__init__("broker", problem)


class NotEncodable(PublishRefused):
    """A message that was received, but that cannot be written as AMQP again: no further try mends that."""


LANGUAGE_MODEL_FAILURES = (
    "timeout", "rate_limited", "quota_exhausted", "unavailable", "refused", "filtered", "truncated", "malformed",
    "breaker_open", "over_capacity", "over_budget", "over_spend",
)  # fmt: skip


class LanguageModelFailed(SongsAIError):
    """The LLM gave no usable answer; ``reason`` is one of ``LANGUAGE_MODEL_FAILURES``, a bounded label.

    ``partial_text`` is what came of an answer that broke off, and ``model`` whose it is, where that is known. The
    tokens are those that the server said it used: an answer that is no use is paid for as well.
    """

    code = "MODEL_ERROR"

    def __init__(
        self,
        reason: str,
        problem: str = "",
        *,
        partial_text: str | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        cached_tokens: int = 0,
        n_requests: int = 1,
    ) -> None:
        super().__init__(f"{reason}: {problem}" if problem else reason)
        self.reason = reason
        self.partial_text = partial_text
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = cached_tokens
        self.n_requests = n_requests
        self.n_calls = 1
        self.cost_usd: float | None = 0.0
        self.model = ""


class ConfigurationError(SongsAIError):
    """The worker cannot start as configured; the sentence says which setting, table or queue to mend."""

    code = "CONFIGURATION_ERROR"


class SettingsRefused(ConfigurationError):
    """Settings have values that cannot be: a line for each, which names the variable and holds no secret."""

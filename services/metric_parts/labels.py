"""The values that labels may have; the last of a list, ``other``, stands for all that are not on it."""

from core.errors import LANGUAGE_MODEL_FAILURES
from core.llm_share import Arm
from core.schedule import TaskOutcome
from core.wish_stage import NOT_EMBEDDED
from models.event import EventType

OTHER = "other"
SOURCES = ("login", "manual", "refresh", "http", "favorites", "replay", "none", OTHER)
JOB_OUTCOMES = ("succeeded", "retried", "dead_lettered", "cancelled", OTHER)
ROUTES = ("main", "batch", "events", OTHER)
JOB_ROUTES = ("main", "batch")
DEAD_LETTER_KINDS = ("jobs", "events")
SETTLED_REASONS = {
    "acked": ("succeeded", "succeeded_before", "failed_before", "stale", "forgotten"),
    "retried": ("dependency_unavailable", "timed_out", "running_elsewhere", "outcome_not_recorded"),
    "dead_lettered": ("invalid", "attempts_used_up", "unexpected", "delivered_too_often"),
}
REASONS = (*(reason for reasons in SETTLED_REASONS.values() for reason in reasons), OTHER)
PROVISIONAL_OUTCOMES = ("written", "skipped", "failed", OTHER)
STAGES = ("listener", "retrieve", "hydrate", "rank", "rerank", "save", OTHER)
LLM_FAILURES = (*LANGUAGE_MODEL_FAILURES, OTHER)
LLM_RETRY_CAUSES = (
    "rate_limited", "unavailable", "response_format", "length_limit", "temperature", "stream_options", OTHER,
)  # fmt: skip
LLM_OUTCOMES = ("ok", "cancelled", *LLM_FAILURES)
FLAWS = ("incomplete", *LLM_FAILURES, NOT_EMBEDDED)
DROP_CAUSES = (
    "unknown_handle", "repeated_handle", "bad_pick", "bad_group", "bad_reason", "bad_taste",
    "untrue_reason", "untrue_label", "untrue_tagline", "untrue_taste",
    "foreign_reason", "foreign_label", "foreign_tagline", "foreign_taste", OTHER,
)  # fmt: skip
ARMS = (*(arm.value for arm in Arm), OTHER)
ANSWER_KINDS = ("new", "degraded", "reused", OTHER)
GUARD_PARTS = ("breaker", "budgets", OTHER)
BREAKER_STATES = ("closed", "half_open", "open")
EVENT_KINDS = (*(kind.value for kind in EventType), OTHER)
EVENT_OUTCOMES = ("kept", "late", "invalid", "failed", OTHER)
REQUESTED_REFRESHES = ("published", "not_needed", "failed", OTHER)
TASK_OUTCOMES = tuple(outcome.value for outcome in TaskOutcome)
HTTP_ROUTES = (
    "/health", "/health/live", "/health/ready", "/health/started", "/metrics", "/recommend", "/recommend/cached",
    "/favorites/updated", "/warm/active", "/recommend/seeds", "/search", "/items/{item_id}",
    "/items/{item_id}/similar", "/jobs/{job_id}", "/jobs/{job_id}/events", "/members/{member_id}/recommendations",
    "/events", "/catalogue", "/catalogue/map", "/members/active", "/members/{member_id}", "/models", "/dead-letters",
    "/dead-letters/replay", OTHER,
)  # fmt: skip
HTTP_CODES = ("2xx", "3xx", "4xx", "5xx")

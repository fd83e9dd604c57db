"""Every setting is declared: it changes answers, and then the version in the fingerprint, or it does not."""

import pytest
from pydantic import SecretStr

from config.catalogue_profile import load_profile
from config.llm_strategies import StrategyTable
from config.rate_limit import RateLimit
from config.schedule import Schedule
from config.settings import Settings
from config.token_price import TokenPrice
from workers.runtime.pipeline_config import pipeline_config

BY_VERSION: dict[str, object] = {
    "aversion": 0.1,
    "discovery_mix": {"hidden_gem": 1.0},
    "discovery_share": 0.1,
    "diversity": 0.1,
    "group_items": 10,
    "interest_half_life_days": 9.0,
    "llm_order_weight": 0.1,
    "llm_strategies": StrategyTable.model_validate({"deep": {"n_candidates": 200}}),
    "llm_temperature": 0.0,
    "max_per_creator": 9,
    "n_interests": 2,
    "recent_half_life_days": 9.0,
    "recent_share": 0.1,
    "repetition": 0.1,
    "time_zone": "UTC",
}
"""Settings that ``PipelineConfig.version`` stands for, each with a value that is not its default."""

BY_THE_QUESTION = {
    "catalogue_profile",  # by its content
    "default_locale",
    "default_top_k",
    "embedder",
    "embedding_dim",
    "embedding_model",
    "llm_experiment",  # by the arm of the member
    "llm_share",
    "max_top_k",
    "openai_api_key",  # without one the model is ``offline``
    "openai_base_url",
    "wish_share",  # by the version of wishes, in jobs that have one
    "wish_weight",
}
"""Settings that change answers of some jobs, and their fingerprints by another way."""

NEVER: dict[str, object] = {
    "api_key": SecretStr("9"),
    "api_key_for_reads": True,
    "batch_concurrency": 9,
    "broker_ca_file": "elsewhere",
    "broker_url": SecretStr("amqp://elsewhere/"),
    "cache_ttl_s": 9,
    "check_bad_rows": 0.9,
    "check_drift_psi": 9.0,
    "check_missing": 0.9,
    "check_orphaned": 0.9,
    "concurrency": 9,
    "database_ca_file": "elsewhere",
    "database_pool": 9,
    "database_url": SecretStr("sqlite:///elsewhere.db"),
    "degraded_ttl_s": 9,
    "delivery_limit": 9,
    "dependency_timeout_s": 9.0,
    "drift_check_s": 9.0,
    "drift_threshold": 0.9,
    "event_batch": 9,
    "event_batch_wait_s": 9.0,
    "event_prefetch": 9,
    "event_retention_days": 9,
    "http_cors_origins": ("https://elsewhere",),
    "http_enabled": False,
    "http_host": "0.0.0.0",  # noqa: S104 - nobody listens there
    "http_port": 9,
    "http_rate_limit": "9/minute",
    "import_calls_per_s": 9.0,
    "index_dir": "elsewhere",
    "index_refresh_s": 9.0,
    "job_lease_s": 9.0,
    "job_max_age_s": 9.0,
    "job_timeout_s": 99.0,
    "job_ttl_s": 9,
    "leader_lease_s": 9.0,
    "llm_api_version": "9",
    "llm_batch_deadline_s": 9.0,
    "llm_batch_poll_s": 9.0,
    "llm_batch_price_factor": 0.9,
    "llm_batch_refresh": True,
    "llm_batch_requests": 9,
    "llm_batch_rest": "other",
    "llm_batch_share": 0.9,
    "llm_breaker_cool_down_s": 9.0,
    "llm_breaker_failures": 9,
    "llm_breaker_window_s": 9.0,
    "llm_budget_wait_s": 9.0,
    "llm_daily_usd": 9.0,
    "llm_max_concurrency": 9,
    "llm_max_retries": 9,
    "llm_prices": {"a": TokenPrice(input=1, output=1)},
    "llm_rate_limits": {"a": RateLimit(tokens_per_minute=9)},
    "llm_requests_per_minute": 9,
    "llm_streaming": True,
    "llm_structured_output": "json_mode",
    "llm_timeout_s": 9.0,
    "llm_traceparent": True,
    "llm_tokens_per_minute": 9,
    "log_format": "json",
    "log_level": "DEBUG",
    "max_attempts": 9,
    "mlflow_tracking_uri": SecretStr("sqlite:///elsewhere.db"),
    "model_versions_kept": 9,
    "name_prefix": "other",
    "notice_interval_s": 9.0,
    "notice_mail_from": "a@example.com",
    "notice_mail_to": "b@example.com",
    "notice_slack": SecretStr("https://elsewhere/"),
    "notice_smtp_url": SecretStr("smtp://elsewhere"),
    "notice_webhook": SecretStr("https://elsewhere/"),
    "otel_exporter_otlp_endpoint": "http://elsewhere:4318",
    "otel_exporter_otlp_headers": SecretStr("a=9"),
    "otel_service_name": "elsewhere",
    "otel_traces_sampler_arg": 0.9,
    "provisional_ttl_s": 9,
    "queue_type": "quorum",
    "rawg_api_key": SecretStr("9"),
    "redis_ca_file": "elsewhere",
    "redis_pool": 9,
    "redis_url": SecretStr("redis://elsewhere"),
    "refresh_quiet_s": 9.0,
    "retrieval": "database",  # its index has another version
    "retry_delays_s": (1.0, 2.0),
    "schedule": Schedule(refresh=""),
    "shutdown_grace_s": 9.0,
    "spotify_client_id": SecretStr("9"),
    "spotify_client_secret": SecretStr("9"),
    "topology_mode": "passive",
    "wish_timeout_s": 9.0,
}
"""Settings that only say how answers are made, kept and sent, each with a value that is not its default."""

SETTINGS = Settings(_env_file=None)
SONGS = load_profile("songs")


def version(settings: Settings) -> str:
    return pipeline_config(settings, SONGS).version


def changed(name: str, value: object) -> Settings:
    assert getattr(SETTINGS, name) != value
    return SETTINGS.model_copy(update={name: value})


def test_every_setting_is_declared_once() -> None:
    declared = [*BY_VERSION, *BY_THE_QUESTION, *NEVER]
    assert sorted(declared) == sorted(Settings.model_fields)


@pytest.mark.parametrize("name", BY_VERSION)
def test_a_setting_that_changes_answers_changes_the_version(name: str) -> None:
    assert version(changed(name, BY_VERSION[name])) != version(SETTINGS)


@pytest.mark.parametrize("name", NEVER)
def test_any_other_setting_leaves_the_version_as_it_is(name: str) -> None:
    assert version(changed(name, NEVER[name])) == version(SETTINGS)


@pytest.mark.parametrize(
    ("strategy", "field", "value"),
    [
        ("default", "model", "other"),
        ("default", "n_likes", 10),
        ("default", "n_explained", 10),
        ("default", "max_prompt_tokens", 2000),
        ("default", "max_completion_tokens", 2000),
        ("deep", "max_calls", 1),
        ("deep", "fallback_model", "other"),
        ("fast", "n_candidates", 50),
    ],
)
def test_every_field_of_the_strategies_changes_the_version(strategy: str, field: str, value: object) -> None:
    table = StrategyTable.model_validate({strategy: {field: value}})
    assert version(SETTINGS.model_copy(update={"llm_strategies": table})) != version(SETTINGS)


def test_another_profile_is_another_version() -> None:
    assert pipeline_config(SETTINGS, SONGS.model_copy(update={"name": "other"})).version != version(SETTINGS)


def test_another_layout_of_the_documents_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = version(SETTINGS)
    monkeypatch.setattr("workers.runtime.pipeline_config.DOCUMENT_VERSION", 999)
    assert version(SETTINGS) != before

"""Every setting, read from the environment (or a ``.env`` file) by the composition root alone."""

import re
import ssl
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config.llm_strategies import DEFAULT_STRATEGIES, StrategyTable
from config.rate_limit import RateLimit
from config.schedule import Schedule
from config.token_price import TokenPrice

MEMORY_URL = "memory://"
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_HEADER_VALUE = re.compile(r"[!-~]*")
_GREATEST = 2**31 - 1
_LONGEST_DELAY_S = (2**32 - 1) // 1000
DiscoveryName = Literal["hidden_gem", "crossover", "new_creator"]


LogFormat = Literal["auto", "json", "console"]


class Settings(BaseSettings):
    """The environment variables of the worker; each field's description is its documentation."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)

    # The four that matter
    broker_url: SecretStr = Field(
        SecretStr(MEMORY_URL), description="amqp://user:password@host:5672/vhost, or memory://"
    )
    database_url: SecretStr = Field(
        SecretStr("sqlite:///songs-ai.db"),
        description="mysql://user:password@host:3306/database, or sqlite:///file",
    )
    redis_url: SecretStr = Field(SecretStr(MEMORY_URL), description="redis://:password@host:6379/0, or memory://")
    openai_api_key: SecretStr = Field(
        SecretStr(""),
        description="key of an OpenAI-compatible server; empty: offline explanations, no LLM call",
    )
    openai_base_url: str = Field(
        "", description="base URL of the server; empty: OpenAI's own; {model}: put in the model's name"
    )

    # LLM
    llm_strategies: StrategyTable = Field(
        DEFAULT_STRATEGIES,
        description=(
            "what each strategy sends and may spend, as JSON over the defaults (docs/llm.md): "
            '{"deep": {"model": "gpt-4.1", "fallback_model": "gpt-4.1-mini", "n_candidates": 240}}'
        ),
    )
    llm_timeout_s: float = Field(
        20.0,
        gt=0,
        description="seconds one LLM call may take, with retries, fallback model, and waits for a slot and the budget",
    )
    llm_max_retries: int = Field(2, ge=0, le=10, description="the client's own retries of 429 and 5xx")
    llm_max_concurrency: int = Field(64, ge=1, description="LLM calls under way at once in one worker")
    llm_structured_output: Literal["auto", "json_schema", "function_calling", "json_mode", "none"] = Field(
        "auto",
        description=(
            "how answers are made JSON: auto (what the server takes), json_schema, function_calling, json_mode, none"
        ),
    )
    llm_streaming: bool = Field(
        False, description="receive answers as streams: what came counts where one breaks off, at more CPU time"
    )
    llm_temperature: float = Field(
        -1.0, ge=-1, le=2, description="temperature of the LLM; -1: not sent, the model's own"
    )
    llm_api_version: str = Field(
        "", description="api-version of an Azure deployment, whose key goes in the header api-key; empty: none"
    )
    llm_requests_per_minute: int = Field(
        0, ge=0, description="requests of all workers to one model in any minute, retries included; 0: no limit"
    )
    llm_tokens_per_minute: int = Field(
        0, ge=0, description="tokens, prompt and completion, of one model and all workers in any minute; 0: no limit"
    )
    llm_rate_limits: dict[str, RateLimit] = Field(
        {},
        description=(
            "models of which another limit holds, as JSON: "
            '{"gpt-4.1": {"requests_per_minute": 500, "tokens_per_minute": 30000}}'
        ),
    )
    llm_batch_share: float = Field(
        0.5, gt=0, le=1, description="share of these limits, and of LLM_DAILY_USD, that the batch queue may use"
    )
    llm_budget_wait_s: float = Field(5.0, ge=0, description="seconds a call may wait for room in these two")
    llm_daily_usd: float = Field(
        0.0, ge=0, description="USD that all workers may spend on the LLM a day (of TIME_ZONE); 0: no limit"
    )
    llm_prices: dict[str, TokenPrice] = Field(
        {},
        description=(
            'USD per million tokens, as JSON: {"gpt-4.1-mini": {"input": 0.4, "cached_input": 0.1, "output": 1.6}}'
        ),
    )
    llm_batch_refresh: bool = Field(
        False, description="`refresh` asks through the provider's Batch API: half the price, within a day"
    )
    llm_batch_requests: int = Field(50_000, ge=1, le=50_000, description="requests in one batch at the most")
    llm_batch_price_factor: float = Field(
        0.5, ge=0, le=1, description="what a token costs in a batch, as a share of LLM_PRICES"
    )
    llm_batch_poll_s: float = Field(60.0, gt=0, description="longest wait between two looks at a batch, in seconds")
    llm_batch_deadline_s: float = Field(
        90_000.0, gt=0, description="seconds after which a batch that has not ended is cancelled and merged in part"
    )
    llm_batch_rest: Literal["next_run", "online"] = Field(
        "next_run", description="what a batch left unanswered: left to the next_run, or asked online by the batch queue"
    )
    llm_breaker_failures: int = Field(
        10, ge=0, description="failures, less one for each success, after which no worker asks a model; 0: no breaker"
    )
    llm_breaker_window_s: float = Field(30.0, gt=0, description="seconds within which these failures must come")
    llm_breaker_cool_down_s: float = Field(15.0, gt=0, description="seconds until one call tries whether it is back")
    llm_order_weight: float = Field(
        0.6,
        ge=0,
        le=1,
        description="weight of the LLM's order against the first-stage score in the final order",
    )

    llm_share: float = Field(
        1.0, ge=0, le=1, description="share of the members that the LLM is asked for; the others get the ranking alone"
    )
    llm_experiment: str = Field("llm", description="what that share is drawn by; another name draws the members anew")

    # Recommending
    catalogue_profile: str = Field("songs", description="name of a file in config/profiles, or a path to one")
    default_locale: Literal["ko", "ja", "en"] = Field("ko", description="locale where a job names none that is known")
    time_zone: str = Field("Asia/Seoul", description="time zone of generated_date")
    default_top_k: int = Field(50, ge=1, description="candidates in a result where the job does not say")
    max_top_k: int = Field(500, ge=1, description="candidates in a result at the most, whatever a job asks")
    group_items: int = Field(20, ge=1, le=100, description="items in the groups of a result, all groups together")
    n_interests: int = Field(4, ge=1, le=16, description="tastes of one listener that are searched apart, at the most")
    max_per_creator: int = Field(3, ge=1, description="items of one artist among the candidates")
    diversity: float = Field(0.3, ge=0, le=1, description="0: the best matches only; 1: as different as can be (MMR)")
    discovery_share: float = Field(0.2, ge=0, le=1, description="share of candidates kept for discoveries")
    discovery_mix: Annotated[dict[DiscoveryName, Annotated[float, Field(ge=0)]], NoDecode] = Field(
        {"hidden_gem": 1.0, "crossover": 1.0, "new_creator": 1.0},
        description="how these places are split, such as hidden_gem:2,crossover:1 (what is not named: 0)",
    )

    wish_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of a wish (context of a job) against the taste; 0: wishes only find candidates",
    )
    wish_share: float = Field(
        0.7, ge=0, le=1, description="share of a list that must fulfil the wish, as far as there are enough"
    )
    wish_timeout_s: float = Field(
        5.0, gt=0, description="seconds the embedding of a wish may take; after them its words count by the table alone"
    )

    # Embeddings
    embedder: Literal["hashing", "openai"] = Field("hashing", description="hashing: no downloads; openai: by HTTP")
    embedding_dim: int = Field(256, ge=64, le=256, description="dimensions of the embedding vectors")
    embedding_model: str = Field("text-embedding-3-small", description="model of the openai embedder")
    index_dir: str = Field("", description="directory of index files that the workers of a host share; empty: none")
    retrieval: Literal["memory", "database"] = Field(
        "memory", description="where candidates are searched for; database: MySQL or MariaDB, for small workers"
    )
    index_refresh_s: float = Field(
        30.0,
        gt=0,
        description="seconds from one look for new or changed items, and for a newly fitted model, to the next",
    )

    # Training and checks of data
    model_versions_kept: int = Field(
        5, ge=2, description="fitted versions of each kind that are kept; the active and the one before it always are"
    )
    check_drift_psi: float = Field(
        0.25, ge=0, description="population stability index from which data have drifted too far to promote; 0: any"
    )
    check_bad_rows: float = Field(0.05, ge=0, le=1, description="share of bad rows of a file from which a check fails")
    check_orphaned: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of interactions with items unknown to the catalogue from which a check fails",
    )
    check_missing: float = Field(
        0.5, ge=0, le=1, description="share of items without a feature that others have from which a check fails"
    )
    mlflow_tracking_uri: SecretStr = Field(
        SecretStr(""),
        description="where fits are logged to MLflow, such as sqlite:///mlflow.db (requirements-mlflow.txt); empty: no",
    )

    # Imports from other services
    spotify_client_id: SecretStr = Field(SecretStr(""), description="of the application that reads Spotify's Web API")
    spotify_client_secret: SecretStr = Field(SecretStr(""), description="of the same application")
    rawg_api_key: SecretStr = Field(SecretStr(""), description="key of RAWG's API of games")
    import_calls_per_s: float = Field(
        2.0, gt=0, le=100, description="calls a second that an import sends to a service at the most"
    )

    # Messaging
    name_prefix: str = Field("rec", pattern=r"^[A-Za-z0-9_.-]+$", description="prefix of all exchanges and queues")
    retry_delays_s: Annotated[tuple[float, ...], NoDecode] = Field(
        (5, 30, 120), min_length=1, description="delays of the retry queues, comma-separated"
    )
    topology_mode: Literal["declare", "passive"] = Field(
        "declare", description="declare exchanges and queues, or use what is there (passive)"
    )
    queue_type: Literal["classic", "quorum"] = Field("classic", description="type of the queues when declared")
    delivery_limit: int = Field(
        20,
        ge=0,
        le=1000,
        description="returns of a job to its queue, as by dead workers, after which it is dead-lettered; 0: no limit",
    )
    concurrency: int = Field(64, ge=1, le=1000, description="jobs under way at once in one worker")
    batch_concurrency: int = Field(4, ge=0, le=1000, description="jobs of the batch queue at once; 0: not consumed")
    max_attempts: int = Field(4, ge=1, description="tries of a job before it is dead-lettered")
    job_timeout_s: float = Field(60.0, gt=0, description="seconds one try of a job may take")
    job_max_age_s: float = Field(
        86_400.0, ge=0, description="seconds after its request within which a job is still run; 0: however old it is"
    )
    job_lease_s: float = Field(15.0, gt=0, description="seconds after which a dead worker's job may be taken over")
    shutdown_grace_s: float = Field(25.0, ge=0, description="seconds running jobs may end in after SIGTERM")

    # What Redis keeps, and for how long
    job_ttl_s: int = Field(86_400, ge=1, description="lifetime of job:status and job:result")
    cache_ttl_s: int = Field(604_800, ge=1, description="lifetime of recommend: and preference:")
    degraded_ttl_s: int = Field(600, ge=1, description="lifetime of cached answers made without the LLM's judgement")
    provisional_ttl_s: int = Field(
        300, ge=0, description="lifetime of provisional results, DEGRADED_TTL_S at the most; 0: none are made"
    )

    # What members do
    event_prefetch: int = Field(
        1000, ge=0, le=10_000, description="events under way at once in one worker; 0: they are not consumed"
    )
    event_batch: int = Field(500, ge=1, le=5000, description="events that are written in one statement at the most")
    event_batch_wait_s: float = Field(0.1, gt=0, description="seconds an event may wait for others to be written with")
    event_retention_days: int = Field(365, ge=1, description="days that events are kept; clean-up deletes older ones")
    interest_half_life_days: float = Field(365.0, gt=0, description="age at which what a member did counts half")
    recent_half_life_days: float = Field(
        14.0, gt=0, description="the same for the recent taste, which steers beside it"
    )
    recent_share: float = Field(
        0.3, ge=0, le=1, description="what the recent taste weighs in the whole; 0: only the long-term taste counts"
    )
    aversion: float = Field(
        0.5, ge=0, le=1, description="how far the score falls of what is like something disliked; 0: not at all"
    )
    repetition: float = Field(
        0.25, ge=0, description="how fast the score falls of what is shown day after day without a reaction; 0: never"
    )
    refresh_quiet_s: float = Field(
        3.0, gt=0, description="seconds without another like or dislike after which a member's results are refreshed"
    )
    drift_check_s: float = Field(
        900.0, gt=0, description="seconds from a play, skip, repeat or rating to the look whether the taste has moved"
    )
    drift_threshold: float = Field(
        0.1, ge=0, le=2, description="1 less the cosine of the taste then and now, above which results are refreshed"
    )

    # Connections
    database_pool: int = Field(10, ge=1, description="MySQL connections of one worker at the most")
    redis_pool: int = Field(100, ge=1, description="Redis connections of one worker at the most")
    dependency_timeout_s: float = Field(5.0, gt=0, description="seconds one MySQL or Redis round trip may take")
    broker_ca_file: str = Field(
        "", description="PEM file of the CAs that an amqps:// broker is trusted by; empty: the system's"
    )
    database_ca_file: str = Field(
        "",
        description="PEM file of the CAs that MySQL is trusted by; turns TLS on; with ?ssl=true and none: the system's",
    )
    redis_ca_file: str = Field(
        "", description="PEM file of the CAs that a rediss:// server is trusted by; empty: the system's"
    )

    # Scheduled tasks
    schedule: Schedule = Field(
        Schedule(),
        description=(
            "cron expressions of the scheduled tasks, in TIME_ZONE, as JSON over the defaults (docs/schedule.md): "
            '{"refresh": "30 2 * * 1-5", "fit": "0 1 * * 0", "digest": ""}'
        ),
    )
    leader_lease_s: float = Field(
        20.0,
        ge=0,
        description="seconds until another worker takes over from a leader that died; 0: starts no scheduled tasks",
    )

    # Notices to those who run the site
    notice_slack: SecretStr = Field(
        SecretStr(""), description="webhook of Slack, or of what is compatible, that notices are sent to; empty: none"
    )
    notice_webhook: SecretStr = Field(
        SecretStr(""), description="URL that notices are posted to as JSON (docs/training.md); empty: none"
    )
    notice_smtp_url: SecretStr = Field(
        SecretStr(""),
        description="smtps://user:password@host:465 or smtp://host:587, by which they are mailed; empty: none",
    )
    notice_mail_from: str = Field("", description="sender of that mail")
    notice_mail_to: str = Field("", description="who gets that mail, comma-separated")
    notice_interval_s: float = Field(
        300.0,
        ge=0,
        description="seconds in which one notice of each kind is sent, by all workers together; 0: every one",
    )

    # HTTP and logs
    http_host: str = Field("127.0.0.1", description="address of the HTTP server")
    http_port: int = Field(8000, ge=0, le=65_535, description="port of the HTTP server; 0: any free one")
    http_enabled: bool = Field(True, description="serve HTTP from the worker's process")
    api_key: SecretStr = Field(
        SecretStr(""),
        description="key that POST, /jobs/ and /members/ want (Authorization: Bearer, or X-API-Key); empty: open",
    )
    api_key_for_reads: bool = Field(
        False,
        description="want the key for /metrics, /health and /openapi.json too; never for /health/live and /started",
    )
    http_rate_limit: str = Field(
        "",
        pattern=r"^$|^\d+/(second|minute|hour|day)(;\d+/(second|minute|hour|day))*$",
        description="requests of one client's address to one process, such as 600/minute;20/second; empty: no limit",
    )
    http_cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="sites whose pages may ask in a browser, such as https://songs.example, comma-separated"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level that is logged")
    log_format: LogFormat = Field("auto", description="auto: console on a terminal, else json")

    # Traces
    otel_exporter_otlp_endpoint: str = Field(
        "", description="base URL of the collector that traces are sent to (requirements-trace.txt); empty: no traces"
    )
    otel_exporter_otlp_headers: SecretStr = Field(
        SecretStr(""), description="headers of what is sent there: name=value,name=value"
    )
    otel_service_name: str = Field("songs-ai", min_length=1, description="what the service is called in traces")
    otel_traces_sampler_arg: float = Field(
        1.0, ge=0, le=1, description="share sampled of the traces that begin here; of others their publisher decides"
    )
    llm_traceparent: bool = Field(False, description="send the header traceparent with LLM requests too")

    @field_validator("openai_base_url")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError("openai_base_url must hold no user and no password: the key belongs in openai_api_key")
        return value

    @field_validator("api_key")
    @classmethod
    def _fits_into_a_header(cls, value: SecretStr) -> SecretStr:
        if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
            raise ValueError("api_key must be of visible ASCII characters without spaces, for it is sent in a header")
        return value

    @field_validator("broker_ca_file", "database_ca_file", "redis_ca_file")
    @classmethod
    def _holds_certificates(cls, value: str, info: ValidationInfo) -> str:
        if value:
            try:
                ssl.create_default_context(cafile=value)
            except (OSError, ValueError) as error:
                raise ValueError(f"{info.field_name} is no readable PEM file of certificates: {value!r}") from error
        return value

    @field_validator("*")
    @classmethod
    def _within_all_clocks_and_servers(cls, value: object) -> object:
        """No duration, lifetime or number is meant to be greater, and the event loop, Redis and RabbitMQ take none."""
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int | float) and number > _GREATEST for number in numbers):
            raise ValueError(f"must not be above {_GREATEST}")
        return value

    @field_validator("*")
    @classmethod
    def _one_line_of_text(cls, value: object) -> object:
        """A key with a line break at its end, as files of secrets have one, is no header: every call would fail."""
        if isinstance(value, SecretStr) and not value.get_secret_value().isprintable():
            raise ValueError("must be UTF-8 without line breaks and control characters")
        return value

    @field_validator("http_cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return tuple(part for each in value.split(",") if (part := each.strip())) if isinstance(value, str) else value

    @field_validator("http_cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"http_cors_origins must be such as https://songs.example, without a path: {origin!r}")
        return value

    @field_validator("retry_delays_s", mode="before")
    @classmethod
    def _split_delays(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("retry_delays_s")
    @classmethod
    def _delays_rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(delay <= 0 for delay in value) or list(value) != sorted(set(value)):
            raise ValueError("retry_delays_s must be positive and rising, such as 5,30,120")
        if value[-1] > _LONGEST_DELAY_S:
            raise ValueError(f"retry_delays_s must not be above {_LONGEST_DELAY_S}: RabbitMQ takes no longer lifetime")
        return value

    @field_validator("discovery_mix", mode="before")
    @classmethod
    def _split_mix(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.strip().split(":", 1) for part in value.split(",")]
        if any(len(part) != 2 for part in parts):  # noqa: PLR2004 - a name and its share
            raise ValueError("discovery_mix must be such as hidden_gem:2,crossover:1")
        return dict(parts)

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"time_zone is not a known zone: {value!r}") from error
        return value

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.default_top_k > self.max_top_k:
            raise ValueError("default_top_k must not be above max_top_k")
        return self

    @model_validator(mode="after")
    def _a_ca_file_has_tls_to_verify(self) -> Self:
        for name, url, schemes in (
            ("broker", self.broker_url, ("amqps://",)),
            ("database", self.database_url, ("mysql", "mariadb")),
            ("redis", self.redis_url, ("rediss://",)),
        ):
            if getattr(self, f"{name}_ca_file") and not url.get_secret_value().startswith(schemes):
                raise ValueError(
                    f"{name}_ca_file is set, but nothing would be encrypted: {name}_url must begin with {schemes[0]}"
                )
        return self

    @model_validator(mode="after")
    def _mail_has_a_way_and_addresses(self) -> Self:
        url = self.notice_smtp_url.get_secret_value()
        if url and not url.startswith(("smtp://", "smtps://")):
            raise ValueError("notice_smtp_url must begin with smtp:// or smtps://")
        if url and not (self.notice_mail_from and self.notice_mail_to):
            raise ValueError("notice_smtp_url needs notice_mail_from and notice_mail_to")
        return self

    @model_validator(mode="after")
    def _llm_ends_before_its_job(self) -> Self:
        calls = max(row.max_calls for row in (self.llm_strategies.default, self.llm_strategies.deep))
        if self.llm_enabled and calls * self.llm_timeout_s >= self.job_timeout_s:
            raise ValueError(
                f"job_timeout_s must be above {calls} times llm_timeout_s: the LLM may not cost a job its time"
            )
        return self

    @model_validator(mode="after")
    def _limits_and_prices_are_of_models_that_are_asked(self) -> Self:
        """A name that is misspelt would be no limit, and no price."""
        asked = self.llm_strategies.models
        for name, of_models in (("llm_rate_limits", self.llm_rate_limits), ("llm_prices", self.llm_prices)):
            unknown = [model for model in of_models if model not in asked]
            if unknown and self.llm_enabled:
                raise ValueError(
                    f"{name} names {', '.join(unknown)}, but llm_strategies asks {', '.join(asked)} and no other model"
                )
        return self

    @property
    def llm_enabled(self) -> bool:
        """Whether there is an LLM to ask: a model, and a key or the base URL of a server that wants none."""
        has_server = self.openai_api_key.get_secret_value() or self.openai_base_url
        return bool(has_server and self.llm_strategies.models)


class LogSettings(BaseSettings):
    """How to log, for who has to tell that other settings are wrong."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    log_format: LogFormat = "auto"

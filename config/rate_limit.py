"""What a provider lets one model be asked in a minute."""

from pydantic import BaseModel, ConfigDict, Field


class RateLimit(BaseModel):
    """Limits of one model; 0: no limit, absent: that of ``LLM_REQUESTS_PER_MINUTE`` or ``LLM_TOKENS_PER_MINUTE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(None, ge=0)
    tokens_per_minute: int | None = Field(None, ge=0)

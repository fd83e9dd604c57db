"""What tokens of a model cost."""

from pydantic import BaseModel, ConfigDict, Field


class TokenPrice(BaseModel):
    """USD per million tokens; ``cached_input`` is what those of the prompt cost that the provider had in its cache."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    output: float = Field(ge=0)

    def cost_usd(self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Of a call; ``cached_tokens`` are among ``prompt_tokens``."""
        cached = min(cached_tokens, prompt_tokens)
        cached_input = self.input if self.cached_input is None else self.cached_input
        millions = (prompt_tokens - cached) * self.input + cached * cached_input + completion_tokens * self.output
        return millions / 1_000_000

"""What the clients of OpenAI's API and of servers like it have in common."""

OPENAI_URL = "https://api.openai.com/v1"

NO_KEY = "none"
"""Sent to servers that want no key: the SDK refuses to start without one."""


def endpoint(base_url: str, model: str) -> str:
    """``base_url``, or OpenAI's own where that is empty; ``{model}`` in it stands for the model's name."""
    return (base_url or OPENAI_URL).replace("{model}", model)

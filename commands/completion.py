"""What a shell offers for the value of an option."""

from collections.abc import Callable


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Those of ``values`` that begin as far as it is typed."""

    def offered(incomplete: str) -> list[str]:
        return [each for each in values if each.startswith(incomplete)]

    return offered


offered_locales = one_of("ko", "ja", "en")

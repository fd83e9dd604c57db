"""Names that others made up, as keys of ours hold them."""

import re
from hashlib import blake2b

_PLAIN = re.compile(r"[!-~]{1,190}")


def in_a_name(text: str) -> str:
    """``text`` as it is where it is short and plain, else its digest: a publisher may write whatever it likes there."""
    return text if _PLAIN.fullmatch(text) else blake2b(text.encode(), digest_size=16).hexdigest()

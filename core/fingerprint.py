"""The fingerprint of a question: where it is the same, so is the answer, and no LLM call is owed."""

import hashlib
from collections.abc import Mapping

import orjson

from core.repetition import Shown
from models.catalogue import Listener
from models.job import Job


def fingerprint(
    job: Job,
    listener: Listener,
    *,
    locale: str,
    top_k: int,
    versions: dict[str, str],
    wish: Mapping[str, str] | None = None,
    shown: Mapping[int, Shown] | None = None,
) -> str:
    """32 hexadecimal digits over all that the answer depends on.

    ``versions`` names the catalogue and embeddings, the model, the prompt and the settings in force. The publisher's
    job id, source and instants are left out: they do not change what is recommended. ``wish``: what is wished for;
    where nothing is, the question is the one that it was before there were wishes. ``shown``: what counts as shown
    before today; how long ago that was is left out, or nobody's question would be today what it was yesterday.
    """
    question = {
        "member": str(listener.member_id),
        "interests": [[str(interest.item_id), interest.weight] for interest in listener.interests],
        "seen": sorted(map(str, listener.seen_ids)),
        "disliked": sorted(map(str, listener.disliked_ids)),
        "strategy": job.strategy,
        "locale": locale,
        "top_k": top_k,
        "versions": versions,
    } | ({"wish": dict(wish)} if wish else {})
    if listener.reactions:
        question["reactions"] = [[str(reaction.item_id), reaction.weight] for reaction in listener.reactions]
    if shown:
        question["shown"] = {str(item_id): each.n_days for item_id, each in shown.items()}
    return hashlib.blake2b(orjson.dumps(question, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()

"""Makes a program stand still at a chosen call, and say so, until somebody interrupts it."""

import asyncio
import inspect
import signal
import sys
from importlib import import_module
from typing import Any

REACHED = "reached\n"


def stand_still_at(place: str, number: int) -> None:
    """Before the ``number``th call of ``place``, such as ``services.ingest_store:SqlIngestStore.save``."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    original = getattr(owner, name)
    n_calls = 0

    def is_it() -> bool:
        nonlocal n_calls
        n_calls += 1
        if n_calls == number:
            sys.stderr.write(REACHED)
            sys.stderr.flush()
        return n_calls == number

    async def awaited(*arguments: object, **options: object) -> object:
        if is_it():
            await asyncio.Event().wait()
        return await original(*arguments, **options)

    def called(*arguments: object, **options: object) -> object:
        if is_it():
            signal.pause()  # the signal's handler raises
        return original(*arguments, **options)

    setattr(owner, name, awaited if inspect.iscoroutinefunction(original) else called)

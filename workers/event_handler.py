"""One event's delivery in, one disposition out; and what becomes of a batch of them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from core.errors import InvalidMessage
from core.event_codec import decode_event
from core.feedback import EventLog, Feedback, Forgetting, happened_at
from core.llm_share import Arm
from core.ports.clock import Clock
from models.event import Event
from models.log_event import LogEvent
from workers.broker import Delivery
from workers.disposition import Ack, AckReason, DeadLetter, DeadLetterReason, Disposition, note_of
from workers.event_batches import EventBatches
from workers.queue_ages import QueueAges

log = structlog.get_logger()

_NEVER = datetime.min.replace(tzinfo=UTC)  # earlier than any event


class EventObserver(Protocol):
    """Sees events."""

    def event(self, *, kind: str, outcome: str) -> None:
        """An event was ``kept``, ``late`` (its member was forgotten since), ``invalid`` or ``failed``."""

    def reaction(self, *, arm: str, kind: str) -> None:
        """A member of ``arm`` did something about what they had been shown."""

    def refreshes_asked(self, *, n_begun: int, n_debounced: int) -> None:
        """Events asked for refreshes: some were the first to, the others joined them."""


class EventHandler:
    """Handles deliveries of events: each is settled once the batch that it is in is kept."""

    def __init__(self, batches: EventBatches, observer: EventObserver, ages: QueueAges | None = None) -> None:
        self._batches = batches
        self._observer = observer
        self._ages = ages

    async def handle(self, delivery: Delivery) -> Disposition:
        """What becomes of ``delivery``; raises ``CancelledError`` alone, and then nothing was decided."""
        kind = ""
        try:
            event = decode_event(delivery.body)
            kind = event.type.value
            if self._ages:
                self._ages.taken("events", event.occurred_at_ns)
            is_kept = await self._batches.add(event)
        except InvalidMessage as error:
            return self._given_up(kind, "invalid", DeadLetterReason.INVALID, error)
        except Exception as error:  # the entry point of every event: a bug must not loop
            log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT)
            return self._given_up(kind, "failed", DeadLetterReason.UNEXPECTED, error)
        self._observer.event(kind=kind, outcome="kept" if is_kept else "late")
        return Ack(AckReason.SUCCEEDED if is_kept else AckReason.FORGOTTEN)

    def _given_up(self, kind: str, outcome: str, reason: DeadLetterReason, error: Exception) -> Disposition:
        self._observer.event(kind=kind, outcome=outcome)
        note = note_of(error)
        log.warning(LogEvent.EVENT_DEAD_LETTERED, reason=reason.value, error=note.message, digest=note.digest)
        return DeadLetter(reason, note)


class EventIntake:
    """Takes in a batch of events: into the table first, then who is to be forgotten, then what is cached.

    Every step does nothing the second time, so a batch that broke off in the middle is taken in again from the start.
    """

    def __init__(
        self,
        events: EventLog,
        feedback: Feedback,
        forgetting: Forgetting,
        *,
        arm_of: Callable[[int], Arm],
        clock: Clock,
        observer: EventObserver,
    ) -> None:
        self._events = events
        self._feedback = feedback
        self._forgetting = forgetting
        self._arm_of = arm_of
        self._clock = clock
        self._observer = observer

    async def take_in(self, events: Sequence[Event]) -> frozenset[str]:
        """The ids of those that happened before their member was forgotten, and so are not kept.

        Raises ``DependencyUnavailable``.
        """
        arrived_at = self._clock.now()
        ends = [event for event in events if event.forgets_the_member]
        others = [event for event in events if not event.forgets_the_member]
        late = await self._events.write(others, arrived_at=arrived_at) if others else frozenset()
        over = await self._forget(ends, arrived_at)
        late |= {each.event_id for each in others if happened_at(each, arrived_at) <= over.get(each.member_id, _NEVER)}
        await self._act_on([event for event in others if event.event_id not in late], arrived_at)
        return late

    async def _forget(self, ends: Sequence[Event], arrived_at: datetime) -> dict[int, datetime]:
        """When each of the members was forgotten."""
        over: dict[int, datetime] = {}
        for end in ends:
            over[end.member_id] = max(happened_at(end, arrived_at), over.get(end.member_id, _NEVER))
        for member_id, at in over.items():
            await self._forgetting.forget(member_id, at)
            log.info(LogEvent.MEMBER_FORGOTTEN)
        return over

    async def _act_on(self, events: Sequence[Event], arrived_at: datetime) -> None:
        taken = await self._feedback.take_in(events, arrived_at=arrived_at)
        self._observer.refreshes_asked(n_begun=taken.n_asked, n_debounced=taken.n_debounced)
        for member_id, kind in taken.reacted:
            self._observer.reaction(arm=self._arm_of(member_id).value, kind=kind.value)

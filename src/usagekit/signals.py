"""Signals to watch by: they tell what happened and can change nothing.

Receivers get the recorder as sender and keyword arguments; take `**extra`, since more may come. A receiver that raises
is counted and logged, and the others are called all the same. Nothing is paid for a signal nobody listens to.

    from usagekit.signals import event_recorded

    @event_recorded.connect
    def alert(recorder, event, **extra): ...

Attributes:
    event_recorded: `event`, a `UsageEvent`, was accepted. On the thread that recorded it: be quick.
    event_rejected: one was refused for `reason`: `"quota"`, `"journal"`, `"size"`, `"closed"` or `"error"`. On the
        thread that offered it.
    batch_delivered: the sink named `sink` settled `count` events. On that sink's thread.
    delivery_failed: the sink named `sink` raised `error`; the batch will be tried again. On that sink's thread.
"""

from __future__ import annotations

from blinker import Namespace

from usagekit import context

__all__ = ["batch_delivered", "delivery_failed", "event_recorded", "event_rejected"]

_signals = Namespace()

event_recorded = _signals.signal("event-recorded")
event_rejected = _signals.signal("event-rejected")
batch_delivered = _signals.signal("batch-delivered")
delivery_failed = _signals.signal("delivery-failed")

# Recorders look here, so that blinker is loaded only where somebody connects.
context.receivers_of = {
    "event_recorded": event_recorded,
    "event_rejected": event_rejected,
    "batch_delivered": batch_delivered,
    "delivery_failed": delivery_failed,
}

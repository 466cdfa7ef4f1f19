"""For programs that follow crashcart's events on a queue of their own: each event once, in order, and what is missing named.

Needs neither a hypervisor nor a database; ``doc/consuming.rst`` tells how it is used. Three layers, each of use without the next:

- :class:`Ordering` (pure): takes notifications as they come, repeated and out of order, gives each once and tells gaps;
- :class:`EventQueue`: the queue at the broker, temporary or kept between runs, with its limits;
- :class:`Follower`: both over a connection that comes back by itself, acknowledging what the caller is done with.
"""

from compute_agent.consumer.follower import Disbelieved, Follower, QueueRefused, Unreadable, create_follower
from compute_agent.consumer.ordering import Event, Gap, GapState, Ordering, UnusableState
from compute_agent.consumer.queues import EventQueue, create_kept_queue, create_temporary_queue
from compute_agent.consumer.seen import Seen
from compute_agent.consumer.senders import Senders
from compute_agent.contract.notifications import Notification, UnreadableNotification, decode
from compute_agent.contract.topics import Severity

__all__ = [
    "Disbelieved",
    "Event",
    "EventQueue",
    "Follower",
    "Gap",
    "GapState",
    "Notification",
    "Ordering",
    "QueueRefused",
    "Seen",
    "Senders",
    "Severity",
    "Unreadable",
    "UnreadableNotification",
    "UnusableState",
    "create_follower",
    "create_kept_queue",
    "create_temporary_queue",
    "decode",
]

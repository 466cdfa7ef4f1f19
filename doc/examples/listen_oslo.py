"""Follow crashcart's events with plain oslo.messaging: ``python listen_oslo.py rabbit://account:password@broker:5672/ consumer.my-tool``

The name is the account's. A pool is a queue, and has that name here; so has the exchange that the account comes with, to which all events
are passed on: oslo.messaging declares the exchange that it listens to, and nobody else may declare crashcart.events.
"""

import signal
import sys
import threading

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)  # before oslo_messaging is imported

import oslo_messaging  # noqa: E402
from oslo_config import cfg  # noqa: E402

url, name = sys.argv[1:]
worked_on: set[str] = set()  # keep them where your work is kept, and for a day


class Endpoint:
    """A method for each severity; the message is acknowledged when it returns."""

    def info(self, context, publisher_id, event_type, payload, metadata):
        # The same event may come again: after a connection broke, or because somebody missed it.
        if event_type == "action.ended" and metadata["message_id"] not in worked_on:
            print(payload["action_id"], payload["ending"], payload["code"], flush=True)
            worked_on.add(metadata["message_id"])

    warn = error = info


conf = cfg.ConfigOpts()
transport = oslo_messaging.get_notification_transport(conf, url=url)
conf([], default_config_files=[])
conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")  # the exchange is durable, and so is a queue that is to stay
target = oslo_messaging.Target(exchange=name, topic="notifications")
# oslo.messaging gives a queue no bounds: the broker's policy for the names consumer.* does (doc/operations.rst).
listener = oslo_messaging.get_notification_listener(transport, [target], [Endpoint()], executor="threading", pool=name)
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
listener.start()
print("listening", flush=True)
stopped.wait()
listener.stop()
listener.wait()

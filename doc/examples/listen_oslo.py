"""Follow crashcart's events with plain oslo.messaging: ``python listen_oslo.py rabbit://account:password@broker:5672/ POOL``

The pool is the queue: crashcart_consumer.my-tool. This listener declares the exchange, which takes more rights than reading does; the other
two examples need no more than those.
"""

import signal
import sys
import threading

from oslo_service import backend

backend.init_backend(backend.BackendType.THREADING)  # before oslo_messaging is imported

import oslo_messaging  # noqa: E402
from oslo_config import cfg  # noqa: E402

url, pool = sys.argv[1:]
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
target = oslo_messaging.Target(exchange="crashcart.events", topic="notifications")
# oslo.messaging gives a queue no bounds: the broker's policy for the names crashcart_consumer.* does (doc/operations.rst).
listener = oslo_messaging.get_notification_listener(transport, [target], [Endpoint()], executor="threading", pool=pool)
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
listener.start()
print("listening", flush=True)
stopped.wait()
listener.stop()
listener.wait()

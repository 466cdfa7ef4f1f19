"""Follow crashcart's events with plain kombu: ``python listen_kombu.py amqp://account:password@broker:5672// consumer.my-tool``"""

import json
import sys

from kombu import Connection, Consumer, Exchange, Queue, binding

url, name = sys.argv[1:]
events = Exchange("crashcart.events", type="topic", no_declare=True)  # it is crashcart's: nobody else needs the right to declare it
limits = {"x-max-length": 100_000, "x-overflow": "drop-head", "x-expires": 7 * 24 * 3_600_000}  # for the day on which nobody reads it
# One queue with three bindings: of three queues of one name a Consumer would declare one.
bindings = [binding(events, routing_key=f"notifications.{severity}") for severity in ("info", "warn", "error")]
queue = Queue(name, bindings=bindings, durable=True, queue_arguments=limits)
worked_on: set[str] = set()  # keep them where your work is kept, and for a day


def work(message):
    """Acknowledged when the work is done: what is not comes again after a restart."""
    event = json.loads(json.loads(message.body)["oslo.message"])
    # The same event may come again: after a connection broke, or because somebody missed it.
    if event["message_id"] not in worked_on:
        if event["event_type"] == "action.ended":
            payload = event["payload"]
            print(payload["action_id"], payload["ending"], payload["code"], flush=True)
        worked_on.add(event["message_id"])
    message.ack()


while True:
    with Connection(url, heartbeat=30) as connection:
        connection.ensure_connection(interval_max=5)
        try:
            with Consumer(connection, queue, on_message=work, prefetch_count=100):
                print("listening", flush=True)
                while True:
                    try:
                        connection.drain_events(timeout=1)
                    except TimeoutError:
                        connection.heartbeat_check()
        except connection.connection_errors as error:
            print(f"the broker is away: {error!r}; trying again", file=sys.stderr)

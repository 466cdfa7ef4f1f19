"""Follow crashcart's events with plain pika: ``python listen_pika.py amqp://account:password@broker:5672/%2F consumer.my-tool``"""

import json
import sys
import time

import pika
import pika.exceptions

url, name = sys.argv[1:]
limits = {"x-max-length": 100_000, "x-overflow": "drop-head", "x-expires": 7 * 24 * 3_600_000}  # for the day on which nobody reads it
worked_on: set[str] = set()  # keep them where your work is kept, and for a day


def work(channel, method, properties, body):
    """Acknowledged when the work is done: what is not comes again after a restart."""
    event = json.loads(json.loads(body)["oslo.message"])
    # The same event may come again: after a connection broke, or because somebody missed it.
    if event["message_id"] not in worked_on:
        if event["event_type"] == "action.ended":
            payload = event["payload"]
            print(payload["action_id"], payload["ending"], payload["code"], flush=True)
        worked_on.add(event["message_id"])
    channel.basic_ack(method.delivery_tag)


while True:
    try:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.queue_declare(name, durable=True, arguments=limits)
        for severity in ("info", "warn", "error"):
            channel.queue_bind(name, "crashcart.events", f"notifications.{severity}")
        channel.basic_qos(prefetch_count=100)
        channel.basic_consume(name, work)
        print("listening", flush=True)
        channel.start_consuming()
    except pika.exceptions.AMQPConnectionError as error:
        print(f"the broker is away: {error!r}; trying again", file=sys.stderr)
        time.sleep(1)

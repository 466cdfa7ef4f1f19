"""Follow crashcart's events with its own kit: ``python listen_crashcart.py rabbit://account:password@broker:5672/ consumer.my-tool``"""

import sys

from compute_agent.consumer import Event, create_follower

url, name = sys.argv[1:]
for told in create_follower(url, name, on_state=lambda state: print(state, flush=True)).follow():
    if not isinstance(told, Event):
        print(told)  # a gap: events that are missing, or lost
    elif told.notification.event_type == "action.ended":
        payload = told.notification.payload
        print(payload["action_id"], payload["ending"], payload["code"], flush=True)

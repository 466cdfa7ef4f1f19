"""``crashcart-notifications``: the program that shows events as they are published; see ``compute_agent.consumer`` for one's own."""

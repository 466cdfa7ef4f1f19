"""crashcart's agent: one per host, injects NMIs and reports what really happened."""

"""crashcart's gateway: HTTP in front, the record of every action and event behind."""

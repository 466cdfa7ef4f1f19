"""``GET /openapi.json``: both APIs described for machines, out of the tables that answer them."""

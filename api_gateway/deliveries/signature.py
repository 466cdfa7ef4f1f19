"""How a webhook knows that it is us: its secret, and what is signed with it, as https://www.standardwebhooks.com says."""

import base64
import hashlib
import hmac
import secrets

_SECRET_PREFIX = "whsec_"  # noqa: S105 # what every secret begins with
_SECRET_BYTES = 32


def create_secret() -> str:
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header ``webhook-signature``."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"

"""The same on MariaDB as on PostgreSQL."""

from tests.unit.gateway.test_store_event_listing import *  # noqa: F403

"""The same on MariaDB as on PostgreSQL."""

from tests.unit.gateway.test_store_heartbeats import *  # noqa: F403

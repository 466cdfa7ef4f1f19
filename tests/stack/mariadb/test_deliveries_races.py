"""The same on MariaDB as on PostgreSQL."""

from tests.unit.gateway.test_deliveries_races import *  # noqa: F403

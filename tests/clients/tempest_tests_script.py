"""tempest's own tests that need only a server that is there: ``tempest_tests_script.py SERVER``, with ``TEMPEST_CONFIG_DIR`` set.

Their code is tempest's, unchanged; what makes their servers is replaced by what looks one up, because there is nothing to boot them from.
Prints as JSON what ran and what failed. Runs in the environment of the clients.
"""

import json
import sys
import unittest
from typing import Any

from tempest.api.compute import base
from tempest.api.compute.admin import test_server_diagnostics, test_server_diagnostics_negative
from tempest.api.compute.servers import test_instance_actions_negative

_MODULES = (test_server_diagnostics, test_server_diagnostics_negative, test_instance_actions_negative)


def main(server_id: str) -> None:
    def find_test_server(cls: Any, **_: object) -> Any:
        return cls.servers_client.show_server(server_id)["server"]

    base.BaseV2ComputeTest.create_test_server = classmethod(find_test_server)
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromModule(module) for module in _MODULES)
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
    problems = [f"{test}: {text}" for test, text in (*result.errors, *result.failures, *result.skipped)]
    print(json.dumps({"ran": result.testsRun, "problems": problems}))


main(sys.argv[1])

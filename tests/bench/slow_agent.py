"""``crashcart-agent`` over a fake hypervisor that is slow: ``python -m tests.bench.slow_agent --config-file …``.

Each NMI takes ``$NMI_SECONDS``.
"""

import os
import sys
import time
from unittest.mock import patch

from compute_agent import service
from compute_agent.drivers.fake import FakeHypervisor

_SECONDS = float(os.environ.get("NMI_SECONDS", "0"))
_inject = FakeHypervisor.inject_nmi


def inject_slowly(hypervisor: FakeHypervisor, server: str) -> None:
    """As a backend that is overloaded would."""
    time.sleep(_SECONDS)
    _inject(hypervisor, server)


if __name__ == "__main__":
    with patch.object(FakeHypervisor, "inject_nmi", inject_slowly):
        code = service.main()
    sys.exit(code)

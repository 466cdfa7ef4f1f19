"""Another process for a step of a test: a fork costs a hundredth of a new interpreter that imports everything again."""

import os
import sys
import traceback
from collections.abc import Callable


def run_in_fork(step: Callable[[], object]) -> int:
    """The exit code of a process that runs ``step`` and ends without any tidying up, as one that was killed.

    0 when the step returns, its code when it calls :func:`sys.exit`, 255 when it raises anything else.
    """
    child = os.fork()
    if child == 0:
        code = 255
        try:
            step()
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 0 if stopped.code is None else 1
        except BaseException:  # noqa: BLE001 -- nothing of the test run may go on in the fork
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""The limit of files that the process may have open, of which each connection is one."""

import logging
import resource

LOG = logging.getLogger(__name__)


def allow_open_files(wanted: int) -> None:
    """Raise the limit to ``wanted`` where it is lower, as far as the process may: what systemd and shells begin with (1024) is for programs
    that do not know better. Says so when it stays lower, for then the connections of one part leave no file to the others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        LOG.warning("only %d files may be open, %d may be needed: raise the limit (LimitNOFILE) or lower what is allowed", allowed, wanted)

"""Whether a SQLite file may lie where it is asked to: its locks and its shared memory need a local file system."""

import ctypes
import os
from pathlib import Path

from api_gateway.store.errors import UnsafeLocation

# f_type of statfs(2). On all of these a lock or a shared memory page of one machine is not seen by another.
_REFUSED = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
}


def find_file_system_type(path: Path) -> int:
    """The kernel's number for the file system that ``path``, or its nearest existing parent, lies on.

    :raises OSError: statfs failed.
    """
    while not path.exists() and path != path.parent:
        path = path.parent
    libc = ctypes.CDLL(None, use_errno=True)
    result = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes at most; f_type is its first word everywhere
    if libc.statfs(os.fsencode(path), result) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return ctypes.cast(result, ctypes.POINTER(ctypes.c_ulong)).contents.value & 0xFFFFFFFF


def check_local(path: Path) -> None:
    """:raises UnsafeLocation: ``path`` lies on a file system where SQLite's locks cannot be trusted."""
    name = _REFUSED.get(find_file_system_type(path.absolute()))
    if name is not None:
        raise UnsafeLocation(
            f"{path} lies on {name}, where SQLite's locks cannot be trusted: put [database] connection on a local disk, "
            "or use PostgreSQL or MariaDB (two gateway machines need one of them anyway)"
        )

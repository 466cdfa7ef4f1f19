"""Kernel and initramfs of the test guests, built once from Debian's kernels and busybox and kept in a cache."""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from devstack.cache import get_cache_dir, note_use, remove_unused
from devstack.initramfs import Initramfs
from devstack.kvm import find_accelerator
from devstack.steps import StepFailed

GUEST_FILES = Path(__file__).parent / "guest"
# The generic kernel has every driver that a test needs; as a crash kernel the cloud one starts faster and needs
# less of the reserved memory.
_MAIN_PACKAGE, _CRASH_PACKAGE = "linux-image-amd64", "linux-image-cloud-amd64"
_FILE_NAMES = {
    _MAIN_PACKAGE: re.compile(r"linux-image-[0-9.]+-[0-9]+-amd64_"),
    _CRASH_PACKAGE: re.compile(r"linux-image-[0-9.]+-[0-9]+-cloud-amd64_"),
}
_MAIN_MODULES = [
    "qemu_fw_cfg",
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_balloon",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "pvpanic",
    "pvpanic-mmio",
    "pvpanic-pci",
    "watchdog",
    "i6300esb",
    "button",
    "evdev",
]
# There, and not loaded by every guest.
_FURTHER_MODULES = ["ib700wdt", "ipmi_msghandler", "ipmi_si", "ipmi_devintf", "ipmi_watchdog"]
_CRASH_MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"]
_PREFIX = "guest-"
_XZ_MAGIC = b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class GuestImage:
    """What a guest boots, and how fast it may: `accelerator` is a libvirt domain type, kvm or qemu."""

    kernel: Path
    initramfs: Path
    kdump_initramfs: Path
    accelerator: str


@dataclass(frozen=True)
class _Kernel:
    vmlinuz: bytes
    modules: dict[str, bytes]


class GuestImages:
    """The cache; `ensure()` may be called by several processes at the same time."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.cache_dir = (cache_dir or get_cache_dir()).resolve()
        self._downloads = self.cache_dir / "downloads"
        self._log = self.cache_dir / "guest-image.log"

    @property
    def directory(self) -> Path:
        """Named after everything that goes into the build, so a changed init script is a new image."""
        digest = hashlib.sha256()
        for path in sorted([*GUEST_FILES.iterdir(), Path(__file__)]):
            digest.update(path.read_bytes())
        return self.cache_dir / f"{_PREFIX}{digest.hexdigest()[:12]}"

    @property
    def is_built(self) -> bool:
        return self.directory.is_dir()

    def ensure(self) -> GuestImage:
        """The image, built when it is not there yet (about 15 s and 100 MB); raises StepFailed."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self.is_built:
                with TemporaryDirectory(dir=self.cache_dir, prefix="building-") as partial:
                    self._build(Path(partial))
                    Path(partial).chmod(0o755)
                    Path(partial).rename(self.directory)
                    Path(partial).mkdir()  # what TemporaryDirectory expects to remove
                remove_unused(self.cache_dir, _PREFIX)
            note_use(self.directory)
            kernel = self.directory / "vmlinux"
            initramfs = self.directory / "initramfs"
            return GuestImage(
                kernel=kernel,
                initramfs=initramfs,
                kdump_initramfs=self.directory / "initramfs-kdump",
                accelerator=find_accelerator(self.directory, kernel, initramfs),
            )

    def _build(self, target: Path) -> None:
        self._log.write_text("")
        main = _unpack_kernel(self._find_package(_MAIN_PACKAGE), _MAIN_MODULES + _FURTHER_MODULES)
        crash = _unpack_kernel(self._find_package(_CRASH_PACKAGE), _CRASH_MODULES)
        loader, counter = self._compile("load_crash_kernel", target), self._compile("say_nmis", target)

        (target / "vmlinux").write_bytes(_cut_out_elf(main.vmlinuz))
        plain = _make_base("init", main.modules)
        plain.add("/bin/say_nmis", counter, executable=True)
        plain.write(target / "initramfs")

        crash_initramfs = _make_base("crash_init", crash.modules)
        crash_initramfs.add_program("/bin/makedumpfile", _find_program("makedumpfile"))
        crash_initramfs.write(target / "initramfs-crash")

        kdump = _make_base("init", main.modules)
        kdump.add("/crash/vmlinuz", crash.vmlinuz)
        kdump.add("/crash/initrd", (target / "initramfs-crash").read_bytes())
        kdump.add("/crash/load_crash_kernel", loader, executable=True)
        kdump.write(target / "initramfs-kdump")

    def _compile(self, name: str, target: Path) -> bytes:
        """A program of ours for the guest, which has no libraries."""
        program = target / name
        self._run(["gcc", "-Os", "-static", "-Wall", "-o", str(program), str(GUEST_FILES / f"{name}.c")])
        return program.read_bytes()

    def _find_package(self, package: str) -> Path:
        """The kernel package that the Debian meta package names, downloaded unless it is there."""
        matching = [path for path in sorted(self._downloads.glob("*.deb")) if _FILE_NAMES[package].match(path.name)]
        return matching[-1] if matching else self._download(package)

    def _download(self, package: str) -> Path:
        depends = self._run(["apt-cache", "depends", package])
        found = re.search(r"Depends: (linux-image-\S+)", depends)
        if found is None:
            self._update_package_lists()
            depends = self._run(["apt-cache", "depends", package])
            found = re.search(r"Depends: (linux-image-\S+)", depends)
        if found is None:
            raise StepFailed(f"apt knows no {package}", log=self._log, advice="is this Debian 12? see apt-cache policy")
        self._downloads.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self._downloads) as partial:
            command = ["apt-get", "download", found.group(1)]
            try:
                self._run(command, cwd=Path(partial))
            except StepFailed:
                self._update_package_lists()  # old lists name files that the mirror has dropped
                self._run(command, cwd=Path(partial))
            package_file = next(Path(partial).glob("*.deb"))
            kept = self._downloads / package_file.name
            package_file.rename(kept)
        return kept

    def _update_package_lists(self) -> None:
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        self._run([*as_root, "apt-get", "update"])

    def _run(self, argv: list[str], cwd: Path | None = None) -> str:
        done = subprocess.run(argv, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with self._log.open("a") as log:
            log.write(f"$ {' '.join(argv)}\n{done.stdout}")
        if done.returncode != 0:
            raise StepFailed(
                f"{argv[0]} ended with {done.returncode} while the guest image was built",
                log=self._log,
                advice="read the log; the next run starts this step anew",
            )
        return done.stdout

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.cache_dir / "guest.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _make_base(init: str, modules: dict[str, bytes]) -> Initramfs:
    initramfs = Initramfs()
    for directory in ("/bin", "/proc", "/sys", "/dev", "/tmp"):
        initramfs.add_directory(directory)
    initramfs.add("/init", (GUEST_FILES / init).read_bytes(), executable=True)
    initramfs.add("/bin/busybox", _find_program("busybox").read_bytes(), executable=True)
    initramfs.add("/etc/acpi/PWRF/00000080", (GUEST_FILES / "acpi_power").read_bytes(), executable=True)
    for name, content in modules.items():
        initramfs.add(f"/modules/{name}.ko", content)
    loaded = [name for name in modules if name not in _FURTHER_MODULES]
    initramfs.add("/modules/order", "".join(f"{name}\n" for name in loaded).encode())
    return initramfs


def _find_program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise StepFailed(f"{name} is not installed", advice="run devstack/demo once, it installs what is missing")
    return Path(found)


def _unpack_kernel(package: Path, module_names: list[str]) -> _Kernel:
    """Read only the kernel and the wanted modules out of the package; raises StepFailed when one is missing."""
    vmlinuz = b""
    modules: dict[str, bytes] = {}
    reader = subprocess.Popen(["dpkg", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=reader.stdout, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile():
                continue
            if path.name.startswith("vmlinuz-"):
                vmlinuz = _read_member(archive, member)
            elif path.suffix == ".ko" and path.stem in module_names:
                modules[path.stem] = _read_member(archive, member)
    missing = [name for name in module_names if name not in modules]
    if reader.wait() != 0 or not vmlinuz or missing:
        raise StepFailed(f"{package.name} lacks {missing or 'a kernel'}", advice=f"remove {package} and run again")
    return _Kernel(vmlinuz, {name: modules[name] for name in module_names})


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "isfile() was asked"
    return file.read()


def _cut_out_elf(vmlinuz: bytes) -> bytes:
    """The ELF kernel inside a bzImage, which boots without running the slow decompressor in the guest."""
    start = vmlinuz.find(_XZ_MAGIC)
    elf = lzma.LZMADecompressor().decompress(vmlinuz[start:]) if start >= 0 else b""
    if not elf.startswith(b"\x7fELF"):
        raise StepFailed("the kernel is not compressed with xz, as Debian 12's generic kernel is")
    return elf

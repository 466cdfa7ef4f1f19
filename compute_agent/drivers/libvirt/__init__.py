"""The libvirt driver: NMI, diagnostics, dumps and events of QEMU servers on this host. Nothing outside this package imports libvirt."""

"""The libvirt driver: NMI and events of QEMU servers on this host. Nothing outside this package imports libvirt."""

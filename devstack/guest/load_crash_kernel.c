/*
 * Loads the crash kernel of a test guest: load_crash_kernel KERNEL INITRD COMMAND_LINE
 *
 * One system call in a static program instead of kexec-tools, which would bring libraries into the guest and a
 * hook into the reboot of the machine that it is installed on. Exits with errno: 99 (EADDRNOTAVAIL) means that
 * crashkernel= reserves too little, 22 (EINVAL) that kernel and initrd exceed half of what is left.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: load_crash_kernel KERNEL INITRD COMMAND_LINE\n");
		return 1;
	}
	int kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	int initrd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (kernel < 0 || initrd < 0) {
		perror("load_crash_kernel: open");
		return errno;
	}
	if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], KEXEC_FILE_ON_CRASH) != 0) {
		perror("load_crash_kernel: kexec_file_load");
		return errno;
	}
	return 0;
}

/* Says how many NMIs the first processor has counted since boot, whenever that changes.
 *
 * A loop of shell would do the same with two processes ten times a second, and an emulated guest takes a processor's tenth from the tests
 * beside it for that.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char text[1 << 16];

static void read_interrupts(int file)
{
	size_t size = 0;
	ssize_t got;

	lseek(file, 0, SEEK_SET);
	while (size < sizeof text - 1 && (got = read(file, text + size, sizeof text - 1 - size)) > 0)
		size += (size_t)got;
	text[size] = '\0';
}

int main(void)
{
	const struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };
	int file = open("/proc/interrupts", O_RDONLY | O_CLOEXEC);
	long said = -1;

	if (file < 0) {
		printf("crashcart-guest-problem: cannot open /proc/interrupts\n");
		return 1;
	}
	for (;;) {
		read_interrupts(file);
		const char *line = strstr(text, "NMI:");
		long count = line != NULL ? strtol(line + strlen("NMI:"), NULL, 10) : said;

		if (count != said) {
			printf("crashcart-nmi-count: %ld\n", count);
			fflush(stdout);
			said = count;
		}
		nanosleep(&pause, NULL);
	}
}

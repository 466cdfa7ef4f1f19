/*
 * Gives the controllers of an ipmi_sim a machine to control: loadlib "…/ipmi_sim_module.so" "DIRECTORY CLOCK WATCHDOG"
 *
 * ipmi_sim answers 0xCC to the diagnostic interrupt of chassis control, whatever is attached. Here it pulses one: that of the attached
 * virtual machine where there is one (`serial kcs … codec VM`). A controller without one gets a machine that is nothing but its power state.
 * It knows no Platform Event either, with which a system has something written into the log; here it does.
 *
 * What was done to the machine of the controller at 0x20 is appended to DIRECTORY/20.done, one line each: seconds since 1970 and nmi,
 * reset, power_on, power_off or graceful_shutdown. DIRECTORY/20.power is 1 or 0, the power of a machine that is nothing else; it may be written from
 * outside, and survives the simulator as a machine survives its BMC. CLOCK is how many seconds the controllers' clocks are ahead; with
 * "none" they are never set, and say so in what they log. WATCHDOG is "own" for ipmi_sim's own, or "whole": see ipmi_sim_watchdog.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <OpenIPMI/ipmi_msgbits.h>
#include <OpenIPMI/mcserv.h>

#include "ipmi_sim_module.h"

#define DIAGNOSTIC_INTERRUPT 4
#define SYSTEM_INTERFACE 15
#define CHANNEL_CAPABILITIES                                                                                                      \
	((1 << HW_OP_RESET) | (1 << HW_OP_POWERON) | (1 << HW_OP_POWEROFF) | (1 << HW_OP_SEND_NMI) | (1 << HW_OP_GRACEFUL_SHUTDOWN))

/* ipmi_sim's own tables, by which its own handlers are found again. */
extern cmd_handler_f chassis_netfn_handlers[256];
extern cmd_handler_f storage_netfn_handlers[256];

static sys_data_t *the_system;
static cmd_handler_f chassis_control_handler;
static int (*hw_op_of_vm[IPMI_MAX_MCS])(channel_t *chan, unsigned int op);
static char directory[512];
static long clock_ahead;
static int has_clock;
static int has_whole_watchdog;

static const char *const op_names[] = {
	[HW_OP_RESET] = "reset",
	[HW_OP_POWERON] = "power_on",
	[HW_OP_POWEROFF] = "power_off",
	[HW_OP_SEND_NMI] = "nmi",
	[HW_OP_GRACEFUL_SHUTDOWN] = "graceful_shutdown",
	[HW_OP_CHECK_POWER] = NULL,
};

static int open_file(unsigned char ipmb, const char *suffix, int flags)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/%02x.%s", directory, ipmb, suffix);
	return open(path, flags | O_CLOEXEC, 0600);
}

/* A test that counts must not believe in what could not be written: then the simulator ends. */
static void write_file(unsigned char ipmb, const char *suffix, int flags, const char *text)
{
	int fd = open_file(ipmb, suffix, O_WRONLY | O_CREAT | flags);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
		perror("ipmi_sim_module: write");
		abort();
	}
	close(fd);
}

static void note_done(unsigned char ipmb, const char *what)
{
	char line[80];
	struct timeval now;

	gettimeofday(&now, NULL);
	snprintf(line, sizeof(line), "%ld.%06ld %s\n", (long)now.tv_sec, (long)now.tv_usec, what);
	write_file(ipmb, "done", O_APPEND, line);
}

static int read_power(unsigned char ipmb)
{
	char power = '1';
	int fd = open_file(ipmb, "power", O_RDONLY);

	if (fd < 0)
		return 1;
	if (read(fd, &power, 1) != 1)
		power = '1';
	close(fd);
	return power == '1';
}

static void set_power(unsigned char ipmb, int is_on)
{
	write_file(ipmb, "power", O_TRUNC, is_on ? "1\n" : "0\n");
}

static int hw_op_without_vm(unsigned char ipmb, unsigned int op)
{
	switch (op) {
	case HW_OP_POWERON:
		set_power(ipmb, 1);
		return 0;
	case HW_OP_POWEROFF:
	case HW_OP_GRACEFUL_SHUTDOWN:
		set_power(ipmb, 0);
		return 0;
	case HW_OP_CHECK_POWER:
		return read_power(ipmb);
	default:
		return 0;
	}
}

/* Stands before what the attached virtual machine does, or in its place: the watchdog's expiry comes here as well. */
static int do_hw_op(channel_t *chan, unsigned int op)
{
	unsigned char ipmb = the_system->mc_get_ipmb(chan->mc);

	if (op < sizeof(op_names) / sizeof(*op_names) && op_names[op])
		note_done(ipmb, op_names[op]);
	if (op == HW_OP_RESET || op == HW_OP_POWEROFF)
		stop_watchdog(ipmb);
	return hw_op_of_vm[ipmb] ? hw_op_of_vm[ipmb](chan, op) : hw_op_without_vm(ipmb, op);
}

/* Counted where the machine is off, too, as some BMCs answer that they did it: who asks first sends none. */
void pulse_diagnostic_interrupt(lmc_data_t *mc)
{
	channel_t *chan = the_system->mc_get_channelset(mc)[SYSTEM_INTERFACE];

	chan->hw_op(chan, HW_OP_SEND_NMI);
}

void control_chassis_itself(lmc_data_t *mc, unsigned char control)
{
	unsigned char rdata[36];
	unsigned int rdata_len = sizeof(rdata);
	msg_t msg = { .netfn = IPMI_CHASSIS_NETFN, .cmd = IPMI_CHASSIS_CONTROL_CMD, .data = &control, .len = 1 };

	chassis_control_handler(mc, &msg, rdata, &rdata_len, NULL);
}

/* Whether the sender may was decided before: ipmi_sim lets operators control the chassis, and no user. */
static void control_chassis(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *cb_data)
{
	if (msg->len < 1 || (msg->data[0] & 0xf) != DIAGNOSTIC_INTERRUPT) {
		chassis_control_handler(mc, msg, rdata, rdata_len, cb_data);
		return;
	}
	pulse_diagnostic_interrupt(mc);
	rdata[0] = 0;
	*rdata_len = 1;
}

/* How a kernel that panics gets it into the log. Over the LAN the first byte, who says so, is missing. */
static void keep_platform_event(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *cb_data)
{
	const unsigned int said = 7;
	unsigned char event[13] = { 0 };

	if (check_msg_length(msg, said, rdata, rdata_len))
		return;
	event[4] = msg->len > said ? msg->data[0] : msg->rq_addr;
	memcpy(event + 6, msg->data + (msg->len > said), said);
	mc_new_event(mc, SYSTEM_EVENT_RECORD, event);
	rdata[0] = 0;
	*rdata_len = 1;
}

static void set_clock(lmc_data_t *mc)
{
	unsigned char now[4], rdata[36];
	unsigned int rdata_len = sizeof(rdata);
	msg_t msg = { .netfn = IPMI_STORAGE_NETFN, .cmd = IPMI_SET_SEL_TIME_CMD, .data = now, .len = sizeof(now) };

	ipmi_set_uint32(now, time(NULL) + clock_ahead);
	storage_netfn_handlers[IPMI_SET_SEL_TIME_CMD](mc, &msg, rdata, &rdata_len, NULL);
}

int ipmi_sim_module_print_version(sys_data_t *sys, const char *options)
{
	printf("ipmi_sim_module of crashcart's devstack\n");
	return 0;
}

int ipmi_sim_module_init(sys_data_t *sys, const char *options)
{
	char clock[32], watchdog[32];

	if (!options || sscanf(options, "%511s %31s %31s", directory, clock, watchdog) != 3) {
		fprintf(stderr, "ipmi_sim_module: it needs three options\n");
		return EINVAL;
	}
	has_clock = strcmp(clock, "none") != 0;
	clock_ahead = has_clock ? strtol(clock, NULL, 10) : 0;
	has_whole_watchdog = strcmp(watchdog, "whole") == 0;
	/* It tells of sessions on every console, and died of one that had just been closed. */
	signal(SIGPIPE, SIG_IGN);
	the_system = sys;
	chassis_control_handler = chassis_netfn_handlers[IPMI_CHASSIS_CONTROL_CMD];
	ipmi_emu_register_cmd_handler(IPMI_CHASSIS_NETFN, IPMI_CHASSIS_CONTROL_CMD, control_chassis, NULL);
	ipmi_emu_register_cmd_handler(IPMI_SENSOR_EVENT_NETFN, IPMI_PLATFORM_EVENT_CMD, keep_platform_event, NULL);
	return 0;
}

int ipmi_sim_module_post_init(sys_data_t *sys)
{
	for (unsigned int ipmb = 0; ipmb < IPMI_MAX_MCS; ipmb++) {
		lmc_data_t *mc = sys->ipmb_addrs[ipmb];
		channel_t *chan = mc ? sys->mc_get_channelset(mc)[SYSTEM_INTERFACE] : NULL;

		if (!chan)
			continue;
		hw_op_of_vm[ipmb] = chan->hw_op;
		if (!chan->hw_op)
			chan->hw_capabilities = CHANNEL_CAPABILITIES;
		chan->hw_op = do_hw_op;
		if (has_clock)
			set_clock(mc);
	}
	return has_whole_watchdog ? begin_watchdogs(sys) : 0;
}

/*
 * A watchdog timer as IPMI 2.0, section 27 has it, in place of ipmi_sim's own, which refuses the pre-timeout NMI, never runs with the action
 * "none", does not tell that it runs, restarts for nobody who asked it not to stop, and leaves out the present countdown.
 */
#include <string.h>
#include <sys/time.h>

#include <OpenIPMI/ipmi_err.h>
#include <OpenIPMI/ipmi_msgbits.h>
#include <OpenIPMI/mcserv.h>

#include "ipmi_sim_module.h"

#define USE_BITS 0x07
#define RUNNING_BIT 0x40
#define DO_NOT_STOP_BIT 0x40
#define DO_NOT_LOG_BIT 0x80
#define HIGHEST_USE 5
#define HIGHEST_ACTION 3
#define PRE_NMI 2
#define PRE_MESSAGE 3
#define PRE_TIMEOUT_OFFSET 8
#define NOT_INITIALIZED_CC 0x80
#define WATCHDOG_2 0x23
#define TICK_US 100000L

struct watchdog {
	lmc_data_t *mc;
	ipmi_timer_t *timer;
	unsigned char use, actions, pre_timeout, expired;
	unsigned int countdown; /* in 100 ms, as the next */
	long long expires_at;
	int is_initialized, is_running, has_warned; /* has_warned: of what it will do when it expires */
};

static sys_data_t *the_system;
static struct watchdog watchdogs[IPMI_MAX_MCS];
/* What the chassis does when it expires, as the data of Chassis Control; none for the first. */
static const unsigned char controls[] = { 0, 3, 0, 2 };

static long long read_clock(void)
{
	struct timeval now;

	the_system->get_monotonic_time(the_system, &now);
	return now.tv_sec * (1000000 / TICK_US) + now.tv_usec / TICK_US;
}

static struct watchdog *find_watchdog(lmc_data_t *mc)
{
	return &watchdogs[the_system->mc_get_ipmb(mc)];
}

static int get_interrupt(const struct watchdog *watchdog)
{
	return watchdog->actions >> 4 & 7;
}

static void wait_for(struct watchdog *watchdog, long long moment)
{
	long long ticks = moment - read_clock();
	struct timeval span = { 0, 0 };

	if (ticks > 0) {
		span.tv_sec = ticks * TICK_US / 1000000;
		span.tv_usec = ticks * TICK_US % 1000000;
	}
	the_system->stop_timer(watchdog->timer);
	the_system->start_timer(watchdog->timer, &span);
}

static void begin(struct watchdog *watchdog)
{
	watchdog->is_running = 1;
	watchdog->has_warned = 0;
	watchdog->expires_at = read_clock() + watchdog->countdown;
	wait_for(watchdog, watchdog->expires_at - (get_interrupt(watchdog) ? watchdog->pre_timeout * 10 : 0));
}

static void write_event(struct watchdog *watchdog, unsigned char offset)
{
	unsigned char event[13] = { 0, 0, 0, 0, 0x20, 0, 4, WATCHDOG_2, 0, 0x6f, 0xc0 | offset };

	event[11] = get_interrupt(watchdog) << 4 | (watchdog->use & USE_BITS);
	event[12] = 0xff;
	if (!(watchdog->use & DO_NOT_LOG_BIT))
		mc_new_event(watchdog->mc, SYSTEM_EVENT_RECORD, event);
}

static void expire(void *cb_data)
{
	struct watchdog *watchdog = cb_data;
	unsigned char action = watchdog->actions & 7;

	if (!watchdog->is_running)
		return;
	if (get_interrupt(watchdog) && !watchdog->has_warned) {
		watchdog->has_warned = 1;
		write_event(watchdog, PRE_TIMEOUT_OFFSET);
		if (get_interrupt(watchdog) == PRE_NMI)
			pulse_diagnostic_interrupt(watchdog->mc);
		wait_for(watchdog, watchdog->expires_at);
		return;
	}
	watchdog->is_running = 0;
	watchdog->expired |= 1 << (watchdog->use & USE_BITS);
	write_event(watchdog, action);
	if (action)
		control_chassis_itself(watchdog->mc, controls[action]);
}

static void get_watchdog(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *cb_data)
{
	struct watchdog *watchdog = find_watchdog(mc);
	long long left = watchdog->is_running ? watchdog->expires_at - read_clock() : watchdog->countdown;

	rdata[0] = 0;
	rdata[1] = watchdog->use | (watchdog->is_running ? RUNNING_BIT : 0);
	rdata[2] = watchdog->actions;
	rdata[3] = watchdog->pre_timeout;
	rdata[4] = watchdog->expired;
	ipmi_set_uint16(rdata + 5, watchdog->countdown);
	ipmi_set_uint16(rdata + 7, left > 0 ? left : 0);
	*rdata_len = 9;
}

static void set_watchdog(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *cb_data)
{
	struct watchdog *watchdog = find_watchdog(mc);
	unsigned char use, action, interrupt;

	if (check_msg_length(msg, 6, rdata, rdata_len))
		return;
	use = msg->data[0] & USE_BITS;
	action = msg->data[1] & 7;
	interrupt = msg->data[1] >> 4 & 7;
	*rdata_len = 1;
	rdata[0] = IPMI_INVALID_DATA_FIELD_CC;
	if (!use || use > HIGHEST_USE || action > HIGHEST_ACTION || (interrupt && interrupt != PRE_NMI && interrupt != PRE_MESSAGE))
		return;
	if (interrupt && msg->data[2] * 10u > ipmi_get_uint16(msg->data + 4))
		return;
	rdata[0] = 0;
	watchdog->is_initialized = 1;
	watchdog->use = msg->data[0] & (USE_BITS | DO_NOT_LOG_BIT);
	watchdog->actions = msg->data[1] & 0x77;
	watchdog->pre_timeout = msg->data[2];
	watchdog->expired &= ~msg->data[3];
	watchdog->countdown = ipmi_get_uint16(msg->data + 4);
	if (watchdog->is_running && msg->data[0] & DO_NOT_STOP_BIT)
		begin(watchdog);
	else
		watchdog->is_running = 0;
}

static void reset_watchdog(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *cb_data)
{
	struct watchdog *watchdog = find_watchdog(mc);

	*rdata_len = 1;
	rdata[0] = watchdog->is_initialized ? 0 : NOT_INITIALIZED_CC;
	if (watchdog->is_initialized)
		begin(watchdog);
}

void stop_watchdog(unsigned char ipmb)
{
	watchdogs[ipmb].is_running = 0;
}

int begin_watchdogs(sys_data_t *sys)
{
	the_system = sys;
	for (unsigned int ipmb = 0; ipmb < IPMI_MAX_MCS; ipmb++) {
		watchdogs[ipmb].mc = sys->ipmb_addrs[ipmb];
		if (watchdogs[ipmb].mc && sys->alloc_timer(sys, expire, &watchdogs[ipmb], &watchdogs[ipmb].timer))
			return -1;
	}
	ipmi_emu_register_cmd_handler(IPMI_APP_NETFN, IPMI_RESET_WATCHDOG_TIMER_CMD, reset_watchdog, NULL);
	ipmi_emu_register_cmd_handler(IPMI_APP_NETFN, IPMI_SET_WATCHDOG_TIMER_CMD, set_watchdog, NULL);
	ipmi_emu_register_cmd_handler(IPMI_APP_NETFN, IPMI_GET_WATCHDOG_TIMER_CMD, get_watchdog, NULL);
	return 0;
}

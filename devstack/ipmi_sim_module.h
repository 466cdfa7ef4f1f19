/* What the parts of the module want of each other. */
#ifndef IPMI_SIM_MODULE_H
#define IPMI_SIM_MODULE_H

#include <OpenIPMI/mcserv.h>

#define SYSTEM_EVENT_RECORD 2

/* ipmi_sim_module.c */
void pulse_diagnostic_interrupt(lmc_data_t *mc);
void control_chassis_itself(lmc_data_t *mc, unsigned char control);

/* ipmi_sim_watchdog.c */
int begin_watchdogs(sys_data_t *sys);
void stop_watchdog(unsigned char ipmb);

#endif

"""Whole systems whose agent serves bare metal: BMCs over IPMI and Redfish, real broker, engine and API."""

"""Bare metal: machines that are reached through their management controllers (BMCs), whatever these speak."""

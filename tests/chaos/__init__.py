"""Chaos: the promises under attack in real processes. Traffic, faults and validation are separate; what is judged is the history alone."""

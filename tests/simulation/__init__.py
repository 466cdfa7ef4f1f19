"""The production code from dispatcher to recorder in one thread, under virtual time, against every fault that it claims to stand.

``kernel`` runs tasks under a seeded scheduler, ``broker`` and ``hypervisor`` stand in for what we do not own, ``agent`` and ``gateway``
compose production parts as the services do, ``plan`` draws the faults of a seed, ``world`` lets them happen, ``invariants`` judges.
"""

"""BMCs that speak IPMI over LAN; the only package that imports pyghmi."""

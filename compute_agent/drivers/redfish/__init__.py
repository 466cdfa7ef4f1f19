"""BMCs that speak Redfish; the only package that imports sushy."""

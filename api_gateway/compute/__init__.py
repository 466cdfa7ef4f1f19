"""The slice of the OpenStack Compute API that crashcart speaks: ``/v2.1`` and its older prefix ``/v2``."""

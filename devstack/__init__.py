"""The system around the product: a private broker, libvirtd, guests and the three services, for demos and tests.

Nothing here is part of an installation of crashcart; nothing in it touches a service of the machine it runs on.
"""

"""Telling subscribers of events: by webhook and by e-mail, at least once, in no promised order.

``deliverer`` decides what is tried when; ``webhook`` and ``mail`` each try it once; ``targets`` and ``addresses`` say what may be a target.
"""

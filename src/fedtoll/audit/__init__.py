"""What can an attacker show? Attacks on a scenario's mechanism and models, compared with the claimed ε.

``run`` performs one audit. ``white_box`` bounds ε from below with ``canaries`` and ``bounds``. ``attacks``
infers membership from the models of ``targets``. ``subject`` records which settings, data and code were
audited.
"""

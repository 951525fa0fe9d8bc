"""What can an attacker show? Attacks on a scenario's own mechanism and models, against the claimed ε.

``run`` is one audit; ``white_box`` bounds ε with ``canaries`` and ``bounds``; ``attacks`` infer membership
from ``targets``; ``subject`` says which settings, records and code an audit is about.
"""

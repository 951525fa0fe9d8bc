"""Attacks on a scenario's own mechanism and models: what can be shown, beside what is claimed.

``conduct`` is one audit; ``white_box`` and ``attacks`` are what it does; ``section`` is for the report.
"""

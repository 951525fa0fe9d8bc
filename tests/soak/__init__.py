"""Accidents while real sweeps run, for as long as one likes: ``python -m tests.soak MINUTES``."""

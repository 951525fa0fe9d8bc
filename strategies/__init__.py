"""How are updates combined? One strategy per file; :mod:`~fedtoll.strategies.base` defines the interface."""

"""How updates are combined: one file a strategy, all over :mod:`fedtoll.strategies.base`."""

"""How updates are combined: one file a strategy, all over ``fedtoll.strategies.base``."""

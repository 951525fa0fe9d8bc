"""Speed and scale of fedtoll, next to what its users would otherwise run: ``python -m benchmarks``."""

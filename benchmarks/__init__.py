"""Speed and scale, measured side by side with what a user would otherwise run: ``python -m benchmarks``."""

"""Benchmarks of all wings: `python -m benchmarks`. README.md explains."""

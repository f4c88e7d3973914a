"""What the system costs in time and memory. Each `bench_*.py` has a `main() -> dict[str, float]`; see `__main__`."""

"""The chaos run: a whole networked fleet on this machine, faults drawn from a seed, and a count of what came through.

    python -m benchmarks.chaos --seed 0 --episodes 1604 --robots 16 --faults 100

See docs/explanation/chaos.md.
"""

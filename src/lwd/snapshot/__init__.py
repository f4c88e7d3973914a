"""Snapshots: numbered, signed policies; how they are stored, found and checked."""

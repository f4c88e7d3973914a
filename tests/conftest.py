"""Settings of the whole test run. JAX is not imported here: most of lwd, and its tests, run without it."""

import os

# Read by JAX when it is first imported: tests run on the CPU, and take no memory that they do not use.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

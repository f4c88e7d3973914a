"""What a learner step of the VLA costs, in memory and in floating-point operations, before anybody rents a GPU."""

"""Which prior answers for which object."""

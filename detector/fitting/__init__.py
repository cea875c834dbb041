"""Settings from facts: what a data set and a device ask of a run, and what more labels would bring. Pure functions."""

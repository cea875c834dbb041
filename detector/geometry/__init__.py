"""Pure mathematics of boxes: no state, no configuration, no input or output."""

"""Training: objective, optimizer, schedules, averaging, the loop, and what it writes down."""

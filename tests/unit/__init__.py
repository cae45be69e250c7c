"""Values and functions by themselves; mirrors tasks/."""

"""Values that both sides need, defined once."""

"""What is to be done, where, in which order, and the way back: pure functions from facts to a Plan."""

"""Training: the state, the step, the loop, and what starts and watches it."""

"""Training: one pure update, where its state lives, and the loop around it; knows objectives, not models."""

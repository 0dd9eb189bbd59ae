"""What is minimised: the `Objective` record, its losses, and one file a kind of objective."""

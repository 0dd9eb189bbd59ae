"""What is learned from which data: each task is a record, and a family of tasks is a table of them."""

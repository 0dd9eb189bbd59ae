"""HuggingFace folders and hub ids <-> `Checkpoint`: network, parameters, tokenizer, and what loading did."""

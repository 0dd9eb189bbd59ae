"""BERT and its variants in JAX/Flax: networks, their own pre-training objectives, fine-tuning, HF conversion."""

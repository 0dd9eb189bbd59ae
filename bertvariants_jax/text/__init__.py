"""Text to token ids: `Tokenizer` for every vocabulary of the family, and vocabulary training."""

from bertvariants_jax.text.tokenizer import Encoding, Tokenizer
from bertvariants_jax.text.train import train

__all__ = ["Encoding", "Tokenizer", "train"]

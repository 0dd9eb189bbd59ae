"""Text to token ids: `Tokenizer` for every vocabulary of the family, and vocabulary training."""

from bertvariants_jax.text.tokenizer import Encoding, Tokenizer
from bertvariants_jax.text.train import train
from bertvariants_jax.text.vocabulary import ForeignTokenizer

__all__ = ["Encoding", "ForeignTokenizer", "Tokenizer", "train"]

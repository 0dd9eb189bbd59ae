"""The same folder opened by live `transformers`, for `convert --check`; the only place that may import it."""

from pathlib import Path

import jax
import numpy as np

from bertvariants_jax.hf.checkpoint import Checkpoint


def difference(checkpoint: Checkpoint, folder: str | Path, rows: int = 2, length: int = 24) -> float:
    """Largest absolute difference of the last hidden states to those of `transformers` on random ids, float32.

    Raises ImportError where torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import AutoModel
    except ImportError:
        raise ImportError("--check compares with transformers: pip install 'bertvariants_jax[peers]'") from None
    peer = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (rows, length))
    with torch.no_grad():
        theirs = peer(torch.tensor(ids), attention_mask=torch.ones(rows, length, dtype=torch.long))[0].numpy()
    with jax.default_matmul_precision("highest"):
        mine = checkpoint(input_ids=ids.astype(np.int32), attention_mask=np.ones((rows, length), np.int32))
    return float(np.abs(np.asarray(mine.last_hidden_state) - theirs).max())

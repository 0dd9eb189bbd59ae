"""BERT and its variants in JAX/Flax: networks, their own pre-training objectives, fine-tuning, HF conversion."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertvariants_jax.hf.checkpoint import Checkpoint, load, new, save
    from bertvariants_jax.models import VARIANTS
    from bertvariants_jax.pipelines import pipeline

__version__ = "0.1.0"
__all__ = ["VARIANTS", "Checkpoint", "load", "new", "pipeline", "save"]

HOMES = {"VARIANTS": "models", "Checkpoint": "hf.checkpoint", "load": "hf.checkpoint", "new": "hf.checkpoint",
         "save": "hf.checkpoint", "pipeline": "pipelines"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import bertvariants_jax` costs nothing."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What a run is made of besides its recipe: classes, tokenizer, networks and data.

`RUN/config.json` and each checkpoint keep it. A command that is repeated is refused if it now comes to
something else, because the weights that are there were learned with what was there before.
"""

from collections.abc import Mapping
from typing import Any

from bertvariants_jax.data.fingerprint import rows_fingerprint
from bertvariants_jax.hf.checkpoint import Checkpoint
from bertvariants_jax.models.variant import Network
from bertvariants_jax.text import Tokenizer


def describe_parts(
    network: Network,
    tokenizer: Tokenizer,
    labels: tuple[str, ...] | None,
    pooling: str,
    companions: Mapping[str, Checkpoint],
) -> dict[str, Any]:
    """What the model is made of, JSON-able.

    Weights are left out: those of the start are learned on, and those of a teacher or a generator lie
    in the checkpoints.
    """
    parts = {
        "tokenizer": tokenizer.fingerprint,
        "network": describe_network(network),
        **({"classes": describe_classes(labels)} if labels is not None else {}),
        **({"pooling": pooling} if pooling else {}),
    }
    for name, companion in companions.items():
        parts[name] = {
            "network": describe_network(companion.network),
            "classes": describe_classes(companion.config.id2label),
        }
        if companion.tokenizer is not None:
            parts[name]["tokenizer"] = companion.tokenizer.fingerprint
    return parts


def describe_network(network: Network) -> dict[str, Any]:
    """Variant and config without the classes."""
    config = network.config.to_json()
    left_out = ("id2label", "label2id")
    return {"variant": network.variant.name} | {
        key: value for key, value in config.items() if key not in left_out
    }


def describe_classes(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"count": len(labels)} | {str(i): str(label) for i, label in enumerate(labels)}


def describe_data(training, training_sources, evaluation, evaluation_sources) -> dict[str, Any]:
    """Fingerprints of what training and evaluation read: by file or address; of rows if none was noted."""
    return {
        "training data": training_sources or {"rows": rows_fingerprint(training)},
        "evaluation data": evaluation_sources or {"rows": rows_fingerprint(evaluation)},
    }

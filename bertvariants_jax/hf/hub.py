"""From what a user names, a folder or a Hugging Face hub id, to a local path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bertvariants_jax.hf.tensors import FLAX, SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX

# Patterns match whole paths: these are files of the repository's root unless they name a folder.
FILES = (
    "config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "spm.model", "sentencepiece.bpe.model", "sentencepiece.model",
    "tokenizer.model", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
WEIGHTS = (SAFETENSORS, SAFETENSORS_INDEX, "model-*.safetensors")
TORCH_WEIGHTS = (TORCH, TORCH_INDEX, "pytorch_model-*.bin")
INNER = "0_Transformer"  # the network's folder in old sentence encoders
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(
    source: str | os.PathLike,
    revision: str | None = None,
    local_files_only: bool = False,
    weights: bool = True,
) -> Path:
    """The local path of a model: an existing path as it is, else from the hub or its local cache.

    Of a hub repository only the files that this library reads are downloaded, and PyTorch's `.bin`,
    then Flax's, only where there is no safetensors. Without a network the cache is used where it has the files.

    Args:
      source: a path, or a hub id ("name" or "owner/name").
      revision: a branch, tag or commit of the hub repository.
      local_files_only: use the cache alone.
      weights: False leaves the weight files out (a tokenizer or a config needs none).

    Raises:
      FileNotFoundError: no such path, nor from the hub: the line says why and what to do.
      ValueError: a revision of a local path.
    """
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(f"{source}: a local path has no revision ({revision!r}); leave it out")
        return path
    name = str(source)
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"{name}: no such file or folder (and it cannot be a hub id, which is owner/name)"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileNotFoundError(
            f"{name}: no such folder here, and the package huggingface_hub is not installed: "
            "install it, or give a local folder"
        ) from error

    def download(patterns: tuple[str, ...]) -> Path:
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    name,
                    revision=revision,
                    local_files_only=local_files_only,
                    allow_patterns=[*patterns, *(f"{INNER}/{pattern}" for pattern in patterns)],
                )
            )
        except Exception as error:  # its own errors, and whatever its HTTP library lets through
            raise FileNotFoundError(_why(name, revision, local_files_only, error)) from error

    if not weights:
        return download(FILES)
    folder = download((*FILES, *WEIGHTS))
    if not _has(folder, (SAFETENSORS, SAFETENSORS_INDEX)):
        folder = download((*FILES, *TORCH_WEIGHTS))
        if not _has(folder, (TORCH, TORCH_INDEX)):
            folder = download((*FILES, FLAX))
        if not _has(folder, (TORCH, TORCH_INDEX, FLAX)):
            at = f" at revision {revision!r}" if revision else ""
            raise FileNotFoundError(
                f"{name}{at}: no {SAFETENSORS} and no {TORCH} (nor {FLAX}) in {folder}: the repository has "
                "none, or the cache has only a part of it; load it once with a network, or give a "
                "local folder that holds them"
            )
    return folder


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any((place / name).exists() for place in (folder, folder / INNER) for name in names)


def _why(name: str, revision: str | None, local_files_only: bool, error: Exception) -> str:
    """What went wrong, in a line; told by class names, as the classes moved between versions."""
    at = f" at revision {revision!r}" if revision else ""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        what = "the repository is gated; accept its terms on the hub and log in (`hf auth login`)"
    elif "RevisionNotFoundError" in kinds:
        what = "the repository has no such revision; name a branch, tag or commit of it"
    elif "RepositoryNotFoundError" in kinds:
        what = "neither a folder here nor a repository of the hub (a private one needs a login); "
        what += "check the name"
    elif "IncompleteSnapshotError" in kinds:
        what = "the local cache has only a part of its files; load it once with a network"
    elif "HFValidationError" in kinds:
        what = "neither a folder here nor a valid hub id, which is owner/name; correct it"
    elif local_files_only:
        what = (
            "not in the local cache, and local_files_only allows no download; load it once without"
        )
    elif "LocalEntryNotFoundError" in kinds:
        what = "neither a folder here nor in the local cache, and the hub cannot be reached; "
        what += "load it once with a network"
    else:
        reason = " ".join(str(error).split())[:200]
        what = f"the download failed ({type(error).__name__}: {reason}); try again"
    return f"{name}{at}: {what}, or give a local folder that holds the files"

"""A checkpoint: a network with its parameters and tokenizer, loaded from and saved to HuggingFace folders."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bertvariants_jax import names
from bertvariants_jax.hf.hub import resolve
from bertvariants_jax.hf.tensors import read_tensors, write_tensors
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS, find_size
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Network, Variant
from bertvariants_jax.text.tokenizer import Tokenizer

LEGACY = ((r"\bLayerNorm\.gamma$", "LayerNorm.weight"), (r"\bLayerNorm\.beta$", "LayerNorm.bias"))


@dataclass(frozen=True)
class Report:
    """What loading did, by HF tensor name (`fresh`: parts of ours, by path)."""

    source: str = ""
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    unknown_config: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source or 'new'}: {len(self.used)} tensors used"]
        for label, items in (("ignored", self.ignored), ("freshly initialised", self.fresh),
                             ("config fields without meaning here", self.unknown_config)):
            if items:
                lines.append(f"{label}: {', '.join(items)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Output:
    """last_hidden_state [B, L, D]; pooler_output [B, D] or None; on request hidden_states, L+1 of
    [B, L, D], and attentions, L of [B, N, L, L]."""

    last_hidden_state: jax.Array
    pooler_output: jax.Array | None = None
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A network with parameters {"encoder": ..., "<head>": ...}, ready to call."""

    network: Network
    params: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    report: Report = field(default_factory=Report)

    @property
    def variant(self) -> str:
        return self.network.variant.name

    @property
    def config(self) -> Config:
        return self.network.config

    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder

    @property
    def heads(self) -> dict[str, nn.Module]:
        return self.network.modules

    def __call__(self, output_hidden_states: bool = False, output_attentions: bool = False, **inputs) -> Output:
        """Run the encoder (jitted, cached per shape) on `input_ids`, `attention_mask`, ... int32 [B, L].

        Raises ValueError for ids beyond the vocabulary and sequences longer than the positions.
        """
        inputs = self.checked(inputs)
        if not (output_hidden_states or output_attentions):
            encoded = _encode(self.network, self.params, inputs)
            return Output(encoded.last_hidden_state, encoded.pooler_output)
        encoded, hidden_states, attentions = _trace(self.network, self.params, inputs)
        return Output(encoded.last_hidden_state, encoded.pooler_output,
                      hidden_states if output_hidden_states else None, attentions if output_attentions else None)

    def logits(self, head: str, **inputs) -> jax.Array:
        """Scores of a head (jitted, cached per shape); for "choice" inputs are [B, choices, L]."""
        return _logits(self.network, head, self.params, self.checked(inputs))

    def checked(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs as int32 arrays; out-of-range ids would give NaN silently on the device, so they raise here."""
        cfg, inputs = self.config, {k: v if isinstance(v, jax.Array) else np.asarray(v) for k, v in inputs.items()}
        known = self.network.variant.call_arguments
        if unknown := set(inputs) - set(known):
            raise ValueError(f"{self.variant} takes no input {sorted(unknown)[0]!r}; it takes: {', '.join(known)}")
        limits = {"input_ids": cfg.vocab_size, "token_type_ids": getattr(cfg, "type_vocab_size", None),
                  "position_ids": getattr(cfg, "max_position_embeddings", None)}
        for key, limit in limits.items():
            if key in inputs and limit and inputs[key].size and not isinstance(inputs[key], jax.core.Tracer):
                low, high = int(inputs[key].min()), int(inputs[key].max())
                if low < 0 or high >= limit:
                    raise ValueError(f"{key} holds {low if low < 0 else high}, but this {self.variant} has {limit} rows")
        longest = self.network.variant.longest(cfg)
        if longest and inputs["input_ids"].shape[-1] > longest:
            raise ValueError(f"input_ids has length {inputs['input_ids'].shape[-1]}, but this {self.variant} has "
                             f"{longest} positions; truncate with max_length={longest}")
        return {k: v.astype(np.int32) if np.issubdtype(v.dtype, np.integer) else v for k, v in inputs.items()}

    def with_heads(self, *heads: str, seed: int = 0, **config_overrides) -> "Checkpoint":
        """The same checkpoint with these heads and no others but the pooler; missing ones are fresh.

        A head whose shape the config overrides change (`id2label`) is fresh too; the report says so.
        """
        config = dataclasses.replace(self.config, **config_overrides)
        keep = tuple(h for h in ("pooler",) if h in self.network.heads)
        network = self.network.variant.network(config, (*keep, *heads), self.network.compute)
        shapes = network.shapes()
        params = {part: tree for part, tree in self.params.items()
                  if part in shapes and jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, shapes[part])}
        params, fresh = _complete(network, params, seed)
        return dataclasses.replace(self, network=network, params=params,
                                   report=dataclasses.replace(self.report, fresh=fresh))


@functools.partial(jax.jit, static_argnums=0)
def _encode(network, params, inputs):
    return network.encode(params, inputs)


@functools.partial(jax.jit, static_argnums=0)
def _trace(network, params, inputs):
    return network.trace(params, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(network, head, params, inputs):
    return network.scores(params, head, inputs)


def new(name: str, heads: tuple[str, ...] = (), seed: int = 0, tokenizer: Tokenizer | str | Path | None = None,
        dtype: str = "float32", param_dtype: str = "float32", **config_overrides) -> Checkpoint:
    """A checkpoint with fresh weights.

    Args:
      name: a variant ("bert") or a published size ("bert-tiny"). heads: names of its heads.
      tokenizer: a Tokenizer or its folder; its vocabulary's size is the config's unless overridden.
      config_overrides: HF's config fields.
    Raises: ValueError for an unknown name, head or config field.
    """
    variant, config = find_size(name)
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.load(tokenizer)
    if tokenizer is not None:
        config_overrides = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_token_id,
                            **config_overrides}
    if unknown := set(config_overrides) - {f.name for f in dataclasses.fields(config)}:
        raise ValueError(f"{type(config).__name__} has no field {sorted(unknown)[0]!r}")
    config = dataclasses.replace(config, **config_overrides)
    network = variant.network(config, tuple(heads), Compute(dtype, param_dtype))
    params, fresh = _complete(network, {}, seed)
    return Checkpoint(network, params, tokenizer, Report(fresh=fresh))


def load(source: str | Path, dtype: str | None = None, param_dtype: str = "float32", revision: str | None = None,
         local_files_only: bool = False, heads: tuple[str, ...] = (), seed: int = 0) -> Checkpoint:
    """A checkpoint from a HuggingFace folder or hub id.

    Args:
      dtype: of the computation (float32 unless given). param_dtype: of the parameters, whatever the file's.
      heads: heads to have besides those of the file; missing ones are initialised from `seed` and reported.
    Raises: FileNotFoundError, or ValueError naming at once every tensor that is missing, misshapen or unknown.
    """
    folder = resolve(str(source), revision, local_files_only)
    variant, config, architectures, unknown = read_config(folder)
    tensors = _canonical(read_tensors(folder))
    prefixed = any(name.startswith(f"{variant.prefix}.") for name in tensors)
    compute = Compute(dtype or "float32", param_dtype)
    found = _heads_of(variant, config, tensors, architectures, prefixed)
    network = variant.network(config, found, compute)
    shapes = {path: leaf.shape for path, leaf in names.flatten(network.shapes()).items()}
    params, used, faults = {}, set(), []
    for part, rows in network.rows(prefixed).items():
        if part not in found and part != "encoder":
            continue                                   # a pooler that the heads need and the file has not
        own = {path.removeprefix(f"{part}/"): shape for path, shape in shapes.items()}
        leaves, seen, wrong = names.read(rows, tensors, own, np.dtype(jax.numpy.dtype(param_dtype)))
        params[part], used, faults = names.unflatten(leaves), used | seen, faults + wrong
        if part != "encoder":
            used |= {tied for tied in variant.heads[part].tied if tied in tensors}
            faults += _tied_faults(network, variant.heads[part].tied, tensors, prefixed)
    ignored = [name for name in tensors if name not in used]
    faults += [f"{name} is not part of a {variant.name} of this config" for name in ignored
               if _stray(network, name, prefixed)]
    if faults:
        raise ValueError(f"{folder}: the weights do not fit the config: " + "; ".join(sorted(faults)))
    network = variant.network(config, tuple(dict.fromkeys((*found, *heads))), compute)
    params, fresh = _complete(network, params, seed)
    try:
        tokenizer = Tokenizer.load(folder)
    except FileNotFoundError:
        tokenizer = None
    return Checkpoint(network, params, tokenizer,
                      Report(str(source), tuple(sorted(used)), tuple(sorted(ignored)), fresh, tuple(unknown)))


def save(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files; opens in `transformers`.

    Each file replaces an earlier one only when it is whole.
    """
    folder, network = Path(folder), checkpoint.network
    folder.mkdir(parents=True, exist_ok=True)
    variant, heads = network.variant, tuple(h for h in network.heads if h != "pooler")
    architecture = next((cls for cls, has in variant.classes.items() if set(has) == set(heads)),
                        next((cls for cls, has in variant.classes.items() if has and set(has) <= set(heads)), ""))
    tensors = {}
    for part, rows in network.rows(prefixed=bool(heads)).items():
        tensors |= names.write(rows, names.flatten(jax.device_get(checkpoint.params[part])))
    write_tensors(folder, tensors)
    config = {"architectures": [architecture], **network.config.to_json()}
    whole = folder / "config.json.tmp"
    whole.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(whole, folder / "config.json")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    return folder


def read_config(folder: str | Path) -> tuple[Variant, Config, list[str], list[str]]:
    """config.json of a folder -> variant, config, HF architectures, fields without meaning to it.

    Raises: FileNotFoundError without the file; ValueError where it is no JSON object or no known model.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: not a HuggingFace model folder")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(data).__name__}")
    kinds = {kind: v for v in VARIANTS.values() for kind in v.model_types}
    if data.get("model_type") not in kinds:
        raise ValueError(f"{path}: model_type is {data.get('model_type')!r}; known: {', '.join(kinds)}")
    variant = kinds[data["model_type"]]
    try:
        config, unknown = variant.config.from_json(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return variant, config, list(data.get("architectures") or []), unknown


def _canonical(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors under today's names (early files hold LayerNorm.gamma and LayerNorm.beta)."""
    renamed = {}
    for name in tensors:
        current = name
        for pattern, replacement in LEGACY:
            current = re.sub(pattern, replacement, current)
        renamed[current] = name
    return _Renamed(tensors, renamed)


class _Renamed(Mapping):
    def __init__(self, tensors, renamed):
        self.tensors, self.renamed = tensors, renamed

    def __getitem__(self, name):
        return self.tensors[self.renamed[name]]

    def __contains__(self, name):
        return name in self.renamed

    def __iter__(self):
        return iter(self.renamed)

    def __len__(self):
        return len(self.renamed)


def _heads_of(variant: Variant, config: Config, tensors, architectures, prefixed) -> tuple[str, ...]:
    """Heads that the file holds whole; where two share names (classify, tag, choice) the file's class decides."""
    named = [head for cls in architectures for head in variant.classes.get(cls, ())]
    ordered = [*named, *(head for head in variant.heads if head not in named)]
    found, claimed = [], set()
    for head in ordered:
        rows = variant.network(config, (head,)).rows(prefixed)[head]
        needed = {(row.tensors[0], *row.aliases) for row in rows}
        whole = all(any(name in tensors for name in alternatives) for alternatives in needed)
        mine = {name for alternatives in needed for name in alternatives}
        if rows and whole and not mine & claimed:
            found.append(head)
            claimed |= mine
    return tuple(head for head in variant.heads if head in found)


def _tied_faults(network: Network, tied, tensors, prefixed) -> list[str]:
    source = next(row.hf for row in network.rows(prefixed)["encoder"] if row.path == network.variant.word_embeddings)
    return [f"{name} and {source} should be one tied tensor but hold different values" for name in tied
            if name in tensors and source in tensors and not np.array_equal(tensors[name], tensors[source])]


def _stray(network: Network, name: str, prefixed: bool) -> bool:
    """Whether an unused tensor stands among the encoder's and is on no list: a network that we would get wrong."""
    if any(re.search(pattern, name) for pattern in network.variant.ignored):
        return False
    prefix = f"{network.variant.prefix}." if prefixed else ""
    roots = {row.tensors[0].removeprefix(prefix).split(".")[0] for row in network.rows(prefixed)["encoder"]}
    return name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] in roots


def _complete(network: Network, params: dict[str, Any], seed: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parameters with the missing parts drawn from `seed`, and the names of those parts."""
    missing = tuple(part for part in ("encoder", *network.heads) if part not in params)
    if missing:
        drawn = jax.jit(lambda rng: {part: network.init(rng)[part] for part in missing})(jax.random.key(seed))
        params = {**params, **drawn}
    return jax.tree.map(jax.numpy.asarray, {part: params[part] for part in ("encoder", *network.heads)}), missing

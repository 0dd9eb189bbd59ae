"""A checkpoint: a network with its parameters and tokenizer, loaded from and saved to HuggingFace folders."""

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bertvariants_jax import names
from bertvariants_jax.files import write_file
from bertvariants_jax.hf.hub import resolve
from bertvariants_jax.hf.pooling import Pooling, network_folder, read_json, read_pooling, write_pooling
from bertvariants_jax.hf.tensors import read_tensors, write_tensors
from bertvariants_jax.hf.tf_bundle import read_tf_checkpoint
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS, find_size
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import ENCODER_INPUTS, TABLES, Network, Variant
from bertvariants_jax.names import Row
from bertvariants_jax.text import ForeignTokenizer, Tokenizer

# What torch's wrappers put into names: torch.compile, FSDP and checkpointed layers anywhere, DataParallel in front.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
LEGACY = ((r"\bLayerNorm\.gamma$", "LayerNorm.weight"), (r"\bLayerNorm\.beta$", "LayerNorm.bias"))

# What TensorFlow's optimizers and estimators keep beside the weights.
SLOTS = re.compile(r"(^|/)(adam_[mv]|lamb_[mv]|Adam(_1)?|ExponentialMovingAverage|global_step)$")

NO_TOKENIZER = "no tokenizer: "  # begins the report's line on why


@dataclass(frozen=True)
class Report:
    """What loading did, by HF tensor name (`fresh`: parts of ours, by path).

    notes: sentences on what does not fit together. guesses: sentences on what the folder does not say, and what was
    taken instead; commands print them and pipelines warn of them.
    """

    source: str = ""
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    unknown_config: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source or 'new'}: {len(self.used)} tensors used"]
        for label, items in (("ignored", self.ignored), ("freshly initialised", self.fresh),
                             ("config fields without meaning here", self.unknown_config)):
            slots = sum(bool(SLOTS.search(item)) for item in items)
            kept = [item for item in items if not SLOTS.search(item)]
            if items:
                lines.append(f"{label}: " + ", ".join([*kept, *([f"{slots} variables of the optimizer"] if slots else [])]))
        return "\n".join([*lines, *self.notes, *self.guesses])


@dataclass(frozen=True)
class Output:
    """last_hidden_state [B, L, D]; pooler_output [B, D] or None; on request hidden_states, L+1 of
    [B, L, D], and attentions, L of [B, N, L, L]; mems, what the next call of a variant with memory takes."""

    last_hidden_state: jax.Array
    pooler_output: jax.Array | None = None
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None
    mems: Any = None


@dataclass(frozen=True)
class Checkpoint:
    """A network with parameters {"encoder": ..., "<head>": ...}, ready to call.

    pooling: what a sentence encoder's folder says of it, else None.
    """

    network: Network
    params: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    report: Report = field(default_factory=Report)
    pooling: Pooling | None = None

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

    def __call__(self, *arrays, output_hidden_states: bool = False, output_attentions: bool = False,
                 use_mems: bool = False, **inputs) -> Output:
        """Run the encoder (jitted, cached per shape) on `input_ids`, `attention_mask`, ... int32 [B, L].

        arrays: input_ids, attention_mask, token_type_ids and position_ids, in this order, if not by name.
        use_mems: give the memory for the next call too (XLNet).
        Raises ValueError for ids beyond the vocabulary and sequences longer than the positions.
        """
        inputs = self.checked(by_name(arrays, inputs))
        if not (output_hidden_states or output_attentions):
            encoded = _encode(self.network, use_mems, self.params, inputs)
            return Output(encoded.last_hidden_state, encoded.pooler_output, mems=encoded.mems)
        encoded, hidden_states, attentions = _trace(self.network, use_mems, self.params, inputs)
        return Output(encoded.last_hidden_state, encoded.pooler_output, hidden_states if output_hidden_states else None,
                      attentions if output_attentions else None, encoded.mems)

    def logits(self, head: str, *arrays, **inputs) -> jax.Array:
        """Scores of a head (jitted, cached per shape); for "choice" inputs are [B, choices, L]."""
        own = self.network.variant.heads[head].inputs if head in self.network.variant.heads else ()
        return _logits(self.network, head, self.params, self.checked(by_name(arrays, inputs), own))

    def checked(self, inputs: Mapping[str, Any], further: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The inputs as int32 arrays; out-of-range ids would give NaN silently on the device, so they raise here."""
        inputs = {k: v if isinstance(v, jax.Array) else np.asarray(v) for k, v in inputs.items()}
        known = (*self.network.variant.call_arguments, *further)
        if unknown := set(inputs) - set(known):
            raise ValueError(f"{self.variant} takes no input {sorted(unknown)[0]!r}; it takes: {', '.join(known)}")
        if "input_ids" not in inputs or inputs["input_ids"].ndim < 2:
            shape = inputs["input_ids"].shape if "input_ids" in inputs else None
            raise ValueError(f"input_ids should be ids [B, L], not {'missing' if shape is None else f'of shape {shape}'}")
        self.check_ids(inputs)
        longest = self.network.variant.longest(self.config)
        if longest and inputs["input_ids"].shape[-1] > longest:
            raise ValueError(f"input_ids has length {inputs['input_ids'].shape[-1]}, but this {self.variant} has "
                             f"{longest} positions; truncate with max_length={longest}")
        return {k: v.astype(np.int32) if np.issubdtype(v.dtype, np.integer) else v for k, v in inputs.items()}

    def check_ids(self, inputs: Mapping[str, np.ndarray | jax.Array]) -> None:
        """Raise ValueError for an id beyond its table, or a place beyond the row: the device would make NaN of it."""
        places = dict.fromkeys(("span_boundaries", "start_positions", "cls_index"), inputs["input_ids"].shape[-1])
        for key, limit in {**self.network.tables, **places}.items():
            if key not in inputs or not inputs[key].size or isinstance(inputs[key], jax.core.Tracer):
                continue
            low, high = int(inputs[key].min()), int(inputs[key].max())
            if low >= 0 and high < limit:
                continue
            value, what = low if low < 0 else high, "places" if key in places else "rows"
            piece = self.tokenizer.id_to_token(value) if self.tokenizer and key == "input_ids" else None
            raise ValueError(
                f"{key} holds {value}{f' ({piece!r})' if piece else ''}, but this {self.variant} has {limit} {what}"
                + (f"; with_heads(..., vocab_size={value + 1}) gives it more" if piece else ""))

    def no_tokenizer(self) -> ValueError:
        """The error for what cannot be done without a tokenizer, which says why there is none."""
        notes = [note for note in self.report.notes if note.startswith(NO_TOKENIZER)]
        why = notes[0] if notes else f"{NO_TOKENIZER}{self.report.source or 'the checkpoint'} has no such files"
        return ValueError(f"{why}; give `load` another (tokenizer=FOLDER)")

    def with_heads(self, *heads: str, seed: int = 0, **config_overrides) -> "Checkpoint":
        """The same checkpoint with these heads, the pooler where they read it, and no others; missing ones are fresh.

        Sizes of tables (vocab_size, max_position_embeddings, type_vocab_size, ...) may change: a table keeps its rows,
        is cut, or gets fresh ones behind them. A head of other classes (`id2label`) is fresh. The report says all of it.
        Raises ValueError where an override asks for other shapes of the encoder's weights.
        """
        changes = self.config.kept(config_overrides)
        network = self.network.variant.network(self.config.replaced(**changes), heads, self.network.compute)
        only_tables = {name: value for name, value in changes.items() if name in TABLES.values()}
        sized = network if not only_tables else self.network.variant.network(
            self.config.replaced(**only_tables), heads, self.network.compute)
        params, tables = carried(self.params, network, sized.shapes() if only_tables else {}, changes)
        params, fresh = _complete(network, params, seed, tables)
        leaves = names.flatten(params)
        lost = [f"{path}[{len(leaves[path])}:{len(table)}]" for path, table in tables.items() if len(leaves[path]) < len(table)]
        lost += [path for path in names.flatten({"encoder": self.params["encoder"]}) if path not in leaves]
        outdated = mismatches(self.tokenizer, self.network)
        notes = [note for note in self.report.notes if note not in outdated] + list(mismatches(self.tokenizer, network))
        notes += [f"not carried over: {', '.join(lost)}"] if lost else []
        return dataclasses.replace(self, network=network, params=params,
                                   report=dataclasses.replace(self.report, fresh=fresh, notes=tuple(notes)))


def carried(params: Mapping[str, Any], network: Network, sized: Mapping[str, Any], changes: Mapping[str, Any]
            ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a network of other heads or sizes takes of parameters as it is, and by path the tables that it resizes.

    sized: shapes of the network of which only the tables have other sizes. A head with any other new shape is left out.
    Raises ValueError for other shapes in the encoder.
    """
    leaves, shapes = names.flatten(params), names.flatten(network.shapes())
    sized = names.flatten(sized)
    kept, tables, other = {}, {}, {}
    for path, leaf in shapes.items():
        if path not in leaves:
            continue
        old = np.shape(leaves[path])
        if old == leaf.shape:
            kept[path] = leaves[path]
        elif path in sized and sized[path].shape == leaf.shape and old[1:] == leaf.shape[1:]:
            tables[path] = leaves[path]
        else:
            other[path] = f"{path} of shape {old} would have {leaf.shape}"
    if wrong := [text for path, text in other.items() if path.startswith("encoder/")]:
        fields = ", ".join(f"{name}={value!r}" for name, value in changes.items() if name not in TABLES.values())
        raise ValueError(f"these weights do not fit {fields or changes}: {wrong[0]}; only tables can grow or shrink "
                         f"({', '.join(TABLES.values())}). A network of that shape is drawn by bertvariants_jax.new")
    redrawn = {path.split("/")[0] for path in other}
    kept, tables = ({path: leaf for path, leaf in part.items() if path.split("/")[0] not in redrawn} for part in (kept, tables))
    return names.unflatten(kept), tables


def by_name(arrays: tuple, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name, the first ones given without."""
    if len(arrays) > len(ENCODER_INPUTS):
        raise ValueError(f"{len(arrays)} inputs are given without a name; in order they are {', '.join(ENCODER_INPUTS)}")
    named = dict(zip(ENCODER_INPUTS, arrays, strict=False))
    if twice := named.keys() & inputs.keys():
        raise ValueError(f"{min(twice)} is given twice, by its place and by its name")
    return {**named, **inputs}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(network, remember, params, inputs):
    return network.encode(params, inputs, remember=remember)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _trace(network, remember, params, inputs):
    return network.trace(params, inputs, remember)


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
    config = config.replaced(**config_overrides)
    network = variant.network(config, (heads,) if isinstance(heads, str) else tuple(heads), Compute(dtype, param_dtype))
    params, fresh = _complete(network, {}, seed)
    return Checkpoint(network, params, tokenizer, Report(fresh=fresh))


def load(source: str | Path, dtype: str | None = None, param_dtype: str = "float32", revision: str | None = None,
         local_files_only: bool = False, heads: tuple[str, ...] = (), seed: int = 0, fresh: bool = True,
         tokenizer: Tokenizer | str | Path | bool | None = True, tokenizer_ids: str | None = None) -> Checkpoint:
    """A checkpoint from a HuggingFace folder or hub id, or a folder with an original TensorFlow checkpoint
    (`bert_config.json` and `bert_model.ckpt.*`).

    Args:
      dtype: of the computation (float32 unless given). param_dtype: of the parameters, whatever the file's.
      heads: heads to have besides those of the file; missing ones are initialised from `seed` and reported. Where a
        file's tensors fit several heads and its config.json names no class, they are taken as one of these.
      fresh: False leaves heads out that the file does not hold.
      tokenizer: False or None for none; a Tokenizer, or another folder that has it. A folder's own of a class that is not known
        here is left out, and the report names it.
      tokenizer_ids: "hf" or "original", whose ids it gives (`Tokenizer.load`).
    Raises: FileNotFoundError, or ValueError naming at once every tensor that is missing, misshapen or unknown.
    """
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    outer = resolve(str(source), revision, local_files_only)
    folder = network_folder(outer)
    read_config(folder)                                # its faults before any weights are looked at
    tensorflow = _is_tensorflow(folder)
    tensors = read_tf_checkpoint(folder) if tensorflow else _canonical(read_tensors(folder))
    variant, config, architectures, unknown = read_config(folder, tensors, heads)
    if tensorflow and variant.tf_names is None:
        raise ValueError(f"{folder}: TensorFlow checkpoints of {variant.name} are not supported")
    prefixed = any(name.startswith(f"{variant.prefix}.") for name in tensors)

    def rows_of(network: Network) -> dict[str, list[Row]]:
        if not tensorflow:
            return network.rows(prefixed)
        return {part: rows for part, rows in variant.tf_names(config).items() if part in ("encoder", *network.heads)}

    compute = Compute(dtype or "float32", param_dtype)
    found, guesses = _heads_of(variant, config, tensors, architectures, rows_of, heads)
    network = variant.network(config, found, compute)
    shapes = {path: leaf.shape for path, leaf in names.flatten(network.shapes()).items()}
    params, used, faults = {}, set(), []
    for part, rows in rows_of(network).items():
        if part not in found and part != "encoder":
            continue                                   # a pooler that the heads need and the file has not
        own = {path.removeprefix(f"{part}/"): shape for path, shape in shapes.items()}
        leaves, seen, wrong = names.read(rows, tensors, own, np.dtype(jax.numpy.dtype(param_dtype)))
        params[part], used, faults = names.unflatten(leaves), used | seen, faults + wrong
        if part != "encoder":
            used |= {tied for tied in variant.heads[part].tied if tied in tensors}
            faults += _tied_faults(network, variant.heads[part].tied, tensors, prefixed)
    ignored = [name for name in tensors if name not in used]
    roots = {_root(row.tensors[0], variant.prefix) for row in rows_of(network)["encoder"]}
    faults += [f"{name} is not part of a {variant.name} of this config" for name in ignored
               if _root(name, variant.prefix) in roots and not SLOTS.search(name)
               and not any(re.search(pattern, name) for pattern in variant.ignored)]
    if faults:
        raise ValueError(f"{folder}: the weights do not fit the config: " + "; ".join(sorted(faults)))
    network = variant.network(config, tuple(dict.fromkeys((*found, *heads))) if fresh else found, compute)
    params, drawn = _complete(network, params, seed)
    tokenizer, notes = read_tokenizer(folder, tokenizer, tokenizer_ids)
    return Checkpoint(network, params, tokenizer,
                      Report(str(source), tuple(sorted(used)), tuple(sorted(ignored)), drawn, tuple(unknown),
                             (*notes, *mismatches(tokenizer, network)), guesses),
                      read_pooling(outer))


def mismatches(tokenizer: Tokenizer | None, network: Network) -> tuple[str, ...]:
    """Sentences on where a tokenizer's ids and a network's tables differ; none without a tokenizer."""
    if tokenizer is None:
        return ()
    notes, rows, size = [], network.tables["input_ids"], tokenizer.vocab_size
    if size > rows:
        pieces = [f"{tokenizer.id_to_token(i)!r} ({i})" for i in range(rows, size) if tokenizer.id_to_token(i)]
        more = f" and {len(pieces) - 4} more" if len(pieces) > 4 else ""
        notes.append(f"the tokenizer has {size} ids, the word table {rows} rows: texts with {', '.join(pieces[:4])}{more} "
                     f"are refused; with_heads(..., vocab_size={size}) makes room")
    elif size < rows:
        notes.append(f"the tokenizer has {size} ids, the word table {rows} rows: the last {rows - size} stand for no piece")
    types, kinds = network.tables.get("token_type_ids"), int(tokenizer.build([], [])[1].max(initial=0)) + 1
    if tokenizer.type_ids and types and kinds > types:
        notes.append(f"the tokenizer gives {kinds} token types, the table has {types} rows: pairs of texts are refused "
                     "unless tokenizer.type_ids is set to False")
    return tuple(notes)


def read_tokenizer(folder: Path, choice: Tokenizer | str | Path | bool | None, tokenizer_ids: str | None
                   ) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """The tokenizer that `load` is asked for, None if the folder has none that is known here, and the report's lines."""
    choice = choice is not None and choice
    if tokenizer_ids and (choice is False or (isinstance(choice, Tokenizer) and choice.tokenizer_ids != tokenizer_ids)):
        there = choice and f"tokenizer has those of {choice.tokenizer_ids!r}"
        raise ValueError(f"tokenizer_ids={tokenizer_ids!r} is about a tokenizer that `load` reads; {there or 'none is'}")
    if choice is False:
        return None, (f"{NO_TOKENIZER}none was asked for",)
    if isinstance(choice, Tokenizer):
        return choice, _lines(choice)
    if choice is not True:
        tokenizer = Tokenizer.load(resolve(str(choice), weights=False), tokenizer_ids=tokenizer_ids)
        return tokenizer, _lines(tokenizer)
    try:
        tokenizer = Tokenizer.load(folder, tokenizer_ids=tokenizer_ids)
    except FileNotFoundError:
        return None, ()
    except ForeignTokenizer as error:
        return None, (f"{NO_TOKENIZER}{error}",)
    except ValueError as error:
        raise ValueError(f"{error} (load(..., tokenizer=False) takes the weights alone)") from None
    return tokenizer, _lines(tokenizer)


def _lines(tokenizer: Tokenizer) -> tuple[str, ...]:
    return tuple(f"tokenizer: {note}" for note in tokenizer.notes)


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
        written = names.write(rows, names.flatten(jax.device_get(checkpoint.params[part])))
        if lost := [name for name in written if name in tensors and not np.array_equal(tensors[name], written[name])]:
            raise ValueError(f"the head {part!r} has another {lost[0]} than a head before it ({', '.join(heads)}), and HF's files "
                             "have one of that name: save them apart, each by with_heads")
        tensors |= written
    write_tensors(folder, tensors)
    config = network.config.to_json()
    if stem := variant.aliases.get(config["model_type"]):
        architecture = stem + architecture.removeprefix(variant.stem)
    config = {"architectures": [architecture], **config}
    write_file(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder)
    if checkpoint.pooling is not None:
        write_pooling(folder, checkpoint.pooling, network.config.hidden_size)
    return folder


def read_config(folder: str | Path, tensors: Collection[str] = (),
                heads: tuple[str, ...] = ()) -> tuple[Variant, Config, list[str], list[str]]:
    """config.json of a folder -> variant, config, architectures by the variant's class names, fields without meaning to it.

    tensors: names in the file; heads: asked for. Among variants of one `model_type` they tell which: that whose
    marks the file has, else the first that has the heads.
    Raises: FileNotFoundError without the file; ValueError where it is no JSON object or no known model.
    """
    path = _config_file(Path(folder))
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(data).__name__}")
    if path.name != "config.json":                     # the originals' own files: no model_type
        data = {"model_type": path.name.removesuffix("_config.json"), **data}
        if _is_tensorflow(path.parent):                # whose code computes "gelu" by tanh; PyTorch's beside it does not
            data |= {key: "gelu_new" for key in ("hidden_act", "ff_activation") if data.get(key) == "gelu"}
    kind = data.get("model_type")
    known = [variant for variant in VARIANTS.values() if kind in variant.model_types]
    if not known:
        kinds = dict.fromkeys(kind for variant in VARIANTS.values() for kind in variant.model_types)
        raise ValueError(f"{path}: model_type is {kind!r}; known: {', '.join(kinds)}")
    marked = [variant for variant in known if any(re.search(mark, name) for mark in variant.marks for name in tensors)]
    variant = [*marked, *(variant for variant in known if set(heads) <= set(variant.heads)), known[0]][0]
    try:
        config, unknown = variant.config.from_json(data)
        config = variant.fitted(config, tensors) if tensors else config
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    alias, named = variant.aliases.get(kind, variant.stem), data.get("architectures") or []
    named = [name for name in ([named] if isinstance(named, str) else named) if isinstance(name, str)]
    architectures = [variant.stem + name.removeprefix(alias) if name.startswith(alias) else name for name in named]
    return variant, config, architectures, unknown


def _config_file(folder: Path) -> Path:
    """config.json, or the one named as in TensorFlow releases, such as bert_config.json; FileNotFoundError without."""
    kinds = dict.fromkeys(kind for variant in VARIANTS.values() if variant.tf_names for kind in variant.model_types)
    for path in (folder / "config.json", *(folder / f"{kind}_config.json" for kind in kinds)):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} has no config.json: not a HuggingFace model folder")


def _canonical(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors under today's names (early files hold LayerNorm.gamma and LayerNorm.beta), without torch's wrappers.

    Raises ValueError where two become one.
    """
    renamed = {}
    for name in tensors:
        steps = [step for step in name.split(".") if step not in WRAPPERS]
        while steps[0] == "module" and len(steps) > 1:
            del steps[0]
        current = ".".join(steps)
        for pattern, replacement in LEGACY:
            current = re.sub(pattern, replacement, current)
        if current in renamed:
            raise ValueError(f"the weights hold {renamed[current]} and {name}, which are one tensor's names: {current}")
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

    def shape(self, name):
        return self.tensors.shape(self.renamed[name])


def _heads_of(variant: Variant, config: Config, tensors, architectures, rows_of, asked) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Heads that the file holds whole, and sentences on those for which it does not say which they are.

    Several heads may read the same tensors (BERT's classify, tag and choice are all `classifier`). The file's class
    decides, else the heads asked for, among those that fit.
    """
    held = {}                                          # head -> the file's tensors that it would read
    for head in variant.heads:
        rows = rows_of(variant.network(config, (head,))).get(head, [])
        present = [[name for name in (row.tensors[0], *row.aliases) if name in tensors] for row in rows]
        if rows and all(present):
            held[head] = {name for alternatives in present for name in alternatives}
    rivals = {head: [other for other in held if other != head and held[other] & held[head]] for head in held}
    named = [head for cls in architectures for head in variant.classes.get(cls, ()) if head in held]
    unsaid = [head for head in held if rivals[head] and not any(head == name or head in rivals[name] for name in named)]
    fitting = _fitting(variant, config, tensors, rows_of, unsaid, held)
    hinted = "classify" if config.problem_type else "tag" if any(label.startswith("B-") for label in config.id2label) else ""

    def doubt(head: str) -> tuple:
        rank = named.index(head) if head in named else len(named)
        return rank, head not in fitting, head not in asked, head != hinted, list(variant.heads).index(head)

    found, claimed, guesses = [], set(), []
    for head in sorted(held, key=doubt):
        if held[head] & claimed:
            continue
        found.append(head)
        claimed |= held[head]
        if head in unsaid:
            others = [other for other in rivals[head] if other in fitting]
            why = ("no other fits" if not others else
                   f"as asked for, though {' and '.join(others)} would fit too" if head in asked else
                   f"though {' and '.join(others)} would fit too: heads=({others[0]!r},) or `architectures` decides")
            guesses.append(f"config.json names no class for {min(held[head])}: it is taken as the head {head!r}, {why}")
    return tuple(head for head in variant.heads if head in found), tuple(guesses)


def _fitting(variant: Variant, config: Config, tensors, rows_of, heads: list[str], held: Mapping[str, Collection[str]]) -> list[str]:
    """Those heads whose tensors have the shapes that the config asks for and leave none to a larger head; pooled ones
    only beside a pooler."""
    if not heads:
        return []
    network = variant.network(config, tuple(heads))
    rows, shapes = rows_of(network), network.shapes()
    leaves = {head: {path: leaf.shape for path, leaf in names.flatten(shapes[head]).items()} for head in heads}

    def fits(head: str) -> bool:
        expected = {name: names.hf_shape(row, leaves[head][row.path]) for row in rows[head] for name in row.tensors}
        return (all(tensors.shape(name) == shape for name, shape in expected.items() if name in tensors)
                and ("pooler" in held or not variant.heads[head].pooled or "pooler" not in variant.heads))

    fitting = [head for head in heads if fits(head)]
    return [head for head in fitting if not any(held[head] < held[other] for other in fitting)]


def _tied_faults(network: Network, tied, tensors, prefixed) -> list[str]:
    source = next(row.hf for row in network.rows(prefixed)["encoder"] if row.path == network.variant.word_embeddings)
    return [f"{name} and {source} should be one tied tensor but hold different values" for name in tied
            if name in tensors and source in tensors and not np.array_equal(tensors[name], tensors[source])]


def _root(name: str, prefix: str) -> str:
    """The part of a network that a tensor's name says it is of: what nobody reads there would be a network that
    we get wrong."""
    if "/" in name:
        return "/".join(name.split("/")[:2])
    return name.removeprefix(f"{prefix}.").split(".")[0]


def _is_tensorflow(folder: Path) -> bool:
    """Whether a folder's weights are a TensorFlow checkpoint's, and no others."""
    kinds = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.msgpack")
    return folder.is_dir() and any(folder.glob("*.index")) and not any(any(folder.glob(kind)) for kind in kinds)


def _complete(network: Network, params: dict[str, Any], seed: int, tables: Mapping[str, Any] = MappingProxyType({})
              ) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parameters with the missing leaves drawn from `seed`, and the names of those parts (or leaves of a part).

    tables: by path those that are to have more or fewer rows; only rows behind theirs are drawn.
    """
    leaves, parts, shapes = names.flatten(params), ("encoder", *network.heads), names.flatten(network.shapes())
    leaves |= {path: table[: shapes[path].shape[0]] for path, table in tables.items()}
    short = {path: len(table) for path, table in tables.items() if len(table) < shapes[path].shape[0]}
    missing = tuple(path for path in shapes if path not in leaves or path in short)
    if missing:
        def draw(rng):
            drawn = names.flatten(network.init(rng))
            return {path: drawn[path][short.get(path, 0) :] for path in missing}

        drawn = jax.jit(draw)(jax.random.key(seed))
        leaves |= {path: jax.numpy.concatenate([leaves[path], drawn[path]]) if path in short else drawn[path]
                   for path in missing}
    whole = {path.split("/")[0] for path in leaves if path not in missing}
    fresh = dict.fromkeys(f"{path}[{short[path]}:{shapes[path].shape[0]}]" if path in short else
                          path if path.split("/")[0] in whole else path.split("/")[0] for path in missing)
    params = names.unflatten(leaves)
    return {part: jax.tree.map(jax.numpy.asarray, params.get(part, {})) for part in parts}, tuple(fresh)

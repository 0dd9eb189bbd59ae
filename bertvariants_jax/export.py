"""Programs of a checkpoint that run without this package: StableHLO through `jax.export`, and ONNX through jax2onnx."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bertvariants_jax import flat, names
from bertvariants_jax.files import write_file
from bertvariants_jax.hf.checkpoint import Checkpoint
from bertvariants_jax.hf.tensors import read_tensors, write_tensors

PLATFORMS = ("cpu", "cuda", "tpu")
NEEDED = {"span_boundaries", "span_offsets"}      # inputs of heads that a text alone does not give

READ_ME = """# {variant}: {outputs}

`model.stablehlo` is a serialized `jax.export` program for {platforms}, called with the weights of `model.safetensors`
and int32 inputs [B, {length}], any B. Neither the package that wrote it nor Flax is needed:

    import jax, jax.export, numpy as np, pathlib, safetensors.numpy
    program = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
    weights = safetensors.numpy.load_file("model.safetensors")
    ids = np.zeros((2, {length}), np.int32)
    outputs = jax.jit(program.call)(weights, {{{call}}})

"""
READ_ME_ONNX = """# {variant}: {outputs}

`model.onnx` (with the weights in `model.onnx.data` beside it, where there is one) takes int32 inputs [B, {length}], any B, in
any runtime that knows opset {opset}:

    import numpy as np, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    ids = np.zeros((2, {length}), np.int32)
    outputs = session.run(None, {{{call}}})

"""
READ_ME_TEXTS = """`export.json` says inputs and outputs, and by `rows` how many rows the table of each input has: a program cannot
refuse ids beyond them, and gives NaN. Texts become ids with `tokenizer.json` (the `tokenizers` library), padded to
{length} tokens on the {side} with id {pad}, attention_mask 0 there.
"""
OPSET = 18


def function(checkpoint: Checkpoint) -> Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """(weights by path, inputs) -> "last_hidden_state" [B, L, D], "pooler_output" [B, D], and a head's scores by its name.

    Of "choice" it is a score a row [B], of "beam" the parts of its record; "sbo", which needs spans, is left out.
    """
    network = replace(checkpoint.network, compute=replace(checkpoint.network.compute, attention="xla", remat="none"))
    heads = [name for name in network.heads if name != "pooler" and not NEEDED & set(network.variant.heads[name].inputs)]

    def run(weights, inputs):
        params = names.unflatten(weights)
        encoded = network.encode(params, inputs)
        out = {"last_hidden_state": encoded.last_hidden_state, "pooler_output": encoded.pooler_output}
        for name in heads:
            scores = network.logits(params, name, encoded, batch=inputs)
            if name == "choice":
                scores = scores.reshape(-1)
            parts = scores._asdict() if hasattr(scores, "_asdict") else {"": scores}
            out |= {f"{name}_{part}" if part else name: value for part, value in parts.items()}
        return {name: value for name, value in out.items() if value is not None}

    return run


def inputs_of(checkpoint: Checkpoint, batch: Any, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """input_ids, attention_mask and, where the tokenizer gives them, token_type_ids: int32 [batch, length]."""
    tokenizer = checkpoint.tokenizer
    keys = ("input_ids", "attention_mask", *(("token_type_ids",) if tokenizer is not None and tokenizer.type_ids else ()))
    return {key: jax.ShapeDtypeStruct((batch, length), jnp.int32) for key in keys}


def check_length(checkpoint: Checkpoint, length: int) -> None:
    longest = checkpoint.network.variant.longest(checkpoint.config)
    if length < 1 or (longest and length > longest):
        raise ValueError(f"length must lie between 1 and the model's {longest or 'any'} positions, got {length}")


def to_stablehlo(checkpoint: Checkpoint, folder: str | Path, length: int = 128) -> Path:
    """Write model.stablehlo, model.safetensors, export.json, README.md and the tokenizer's files; B is symbolic.

    Raises ValueError for a length that the model does not take.
    """
    check_length(checkpoint, length)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {path: np.asarray(value) for path, value in names.flatten(checkpoint.params).items()}
    [batch] = jax.export.symbolic_shape("B")
    inputs = inputs_of(checkpoint, batch, length)
    shapes = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in weights.items()}
    program = jax.export.export(jax.jit(function(checkpoint)), platforms=PLATFORMS)(shapes, inputs)
    write_file(folder / "model.stablehlo", program.serialize())
    write_tensors(folder, weights, max_shard_bytes=2**62)
    describe(checkpoint, folder, length, inputs, jax.tree.unflatten(program.out_tree, program.out_avals), READ_ME, PLATFORMS)
    return folder


def to_onnx(checkpoint: Checkpoint, folder: str | Path, length: int = 128) -> Path:
    """Write model.onnx, float32, with export.json, README.md and the tokenizer's files; B is symbolic.

    Raises ValueError for a length that the model does not take, ImportError without jax2onnx.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise ImportError("ONNX needs jax2onnx: pip install 'bertvariants_jax[onnx]'") from error
    check_length(checkpoint, length)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = in_float32(checkpoint)
    run, weights = function(plain), names.flatten(plain.params)
    [batch] = jax.export.symbolic_shape("B")
    inputs = inputs_of(checkpoint, batch, length)
    call = lambda *arrays: run(weights, dict(zip(inputs, arrays, strict=True)))
    traced, outputs = flat.trace(call, *inputs.values())
    for name in ("jax2onnx", "onnx_ir"):                # they warn of plugins and shapes that nobody asked for
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as work:
        jax2onnx.to_onnx(lambda *arrays: flat.evaluate(traced, *arrays), list(inputs.values()),
                         model_name=checkpoint.variant, opset=OPSET, return_mode="file",
                         output_path=Path(work) / "model.onnx", input_names=list(inputs),
                         output_names=sorted(outputs))
        written = sorted(Path(work).glob("model.onnx*"), reverse=True)  # large weights, model.onnx.data, come first
        for old in folder.glob("model.onnx?*"):
            old.unlink()
        for file in written:
            file.chmod(0o644)                           # the converter makes the weights' file private
            os.replace(file, folder / file.name)
    describe(checkpoint, folder, length, inputs, outputs, READ_ME_ONNX, ("onnx",))
    return folder


def in_float32(checkpoint: Checkpoint) -> Checkpoint:
    compute = replace(checkpoint.network.compute, dtype="float32", param_dtype="float32")
    return replace(checkpoint, network=replace(checkpoint.network, compute=compute),
                   params=jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), checkpoint.params))


def describe(checkpoint: Checkpoint, folder: Path, length: int, inputs: Mapping, outputs: Mapping, text: str,
             platforms: tuple[str, ...]) -> None:
    shown = lambda tree: {name: f"{value.dtype}[{','.join(map(str, value.shape))}]" for name, value in tree.items()}
    tokenizer = checkpoint.tokenizer
    said = {"variant": checkpoint.variant, "inputs": shown(inputs), "outputs": shown(outputs), "platforms": platforms,
            "id2label": checkpoint.config.id2label,
            "rows": {key: rows for key, rows in checkpoint.network.tables.items() if key in inputs}}
    write_file(folder / "export.json", json.dumps(said, indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save(folder)
    write_file(folder / "README.md", (text + READ_ME_TEXTS).format(
        variant=checkpoint.variant, outputs=", ".join(outputs), platforms=", ".join(platforms), length=length, opset=OPSET,
        call=", ".join(f'"{name}": ids' for name in inputs), side=tokenizer.padding_side if tokenizer else "right",
        pad=tokenizer.pad_token_id if tokenizer else 0))


def difference(checkpoint: Checkpoint, folder: str | Path) -> float:
    """The largest difference between the scores of an exported program, read from its files, and the checkpoint's.

    Places (integers) are not compared: they are the order of scores, which may tie.
    """
    folder = Path(folder)
    shown = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    length, top = int(shown["inputs"]["input_ids"].rstrip("]").split(",")[1]), checkpoint.config.vocab_size
    mask = (np.arange(length) < np.array([[length], [max(length // 2, 1)]])).astype(np.int32)
    ids = (np.random.default_rng(0).integers(0, top, (2, length)) * mask).astype(np.int32)
    inputs = {key: {"input_ids": ids, "attention_mask": mask}.get(key, np.zeros_like(ids)) for key in shown["inputs"]}
    if shown["platforms"] == ["onnx"]:
        import onnxruntime

        checkpoint = in_float32(checkpoint)
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        theirs = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))
    else:
        program = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
        read = {path: np.asarray(tensor) for path, tensor in read_tensors(folder / "model.safetensors").items()}
        theirs = jax.jit(program.call)(read, inputs)
    ours = jax.jit(function(checkpoint))(dict(names.flatten(checkpoint.params)), inputs)
    return max(float(np.abs(np.asarray(theirs[name], np.float64) - np.asarray(ours[name], np.float64)).max())
               for name in ours if jnp.issubdtype(ours[name].dtype, jnp.floating))

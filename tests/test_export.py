"""Export: a program that another process runs without this package, for any number of rows, with equal outputs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import main
from bertvariants_jax.export import difference, to_onnx, to_stablehlo
from bertvariants_jax.hf.checkpoint import Checkpoint

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat good bad film was ##s .".split()

READER = """
import json, pathlib, sys
sys.path = [p for p in sys.path if "site-packages" in p or "python" in p.lower()]
import jax, jax.export, numpy as np
from safetensors.numpy import load_file
folder = pathlib.Path(sys.argv[1])
program = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
weights = load_file(folder / "model.safetensors")
inputs = {k: np.array(v, np.int32) for k, v in json.loads((folder / "inputs.json").read_text()).items()}
out = jax.jit(program.call)(weights, inputs)
np.savez(folder / "out.npz", **out)
assert not [name for name in sys.modules if name.startswith(("bertvariants", "flax"))], "the package was imported"
print(sorted(out), program.platforms)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    checkpoint = bv.new("bert", heads=("classify", "tag"), seed=5, tokenizer=folder, hidden_size=24, num_hidden_layers=2,
                        num_attention_heads=3, intermediate_size=40, max_position_embeddings=64, initializer_range=0.5,
                        id2label=("no", "yes", "maybe"))
    return checkpoint, to_stablehlo(checkpoint, folder / "program", length=16)


def test_another_process_runs_it_without_the_package(exported, tmp_path):
    checkpoint, folder = exported
    texts = ["the cat sat", "a bad film .", "the dog was on the mat", "", "good"]
    inputs = checkpoint.tokenizer(texts, padding=16)
    (folder / "inputs.json").write_text(json.dumps({key: value.tolist() for key, value in inputs.items()}))
    done = subprocess.run([sys.executable, "-c", READER, str(folder)], capture_output=True, text=True, cwd=tmp_path,
                          env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "['classify', 'last_hidden_state', 'pooler_output', 'tag'] ('cpu', 'cuda', 'tpu')" in done.stdout
    out = np.load(folder / "out.npz")
    mine = checkpoint(**inputs)
    np.testing.assert_allclose(out["last_hidden_state"], mine.last_hidden_state, atol=1e-5)
    np.testing.assert_allclose(out["pooler_output"], mine.pooler_output, atol=1e-5)
    np.testing.assert_allclose(out["classify"], checkpoint.logits("classify", **inputs), atol=1e-5)
    np.testing.assert_allclose(out["tag"], checkpoint.logits("tag", **inputs), atol=1e-5)


def test_its_folder_says_what_it_is(exported):
    checkpoint, folder = exported
    said = json.loads((folder / "export.json").read_text())
    assert said["inputs"]["input_ids"] == "int32[B,16]" and said["outputs"]["classify"] == "float32[B,3]"
    assert said["id2label"] == ["no", "yes", "maybe"] and said["platforms"] == ["cpu", "cuda", "tpu"]
    assert (folder / "tokenizer.json").is_file() and "jax.export.deserialize" in (folder / "README.md").read_text()
    assert difference(checkpoint, folder) <= 1e-5


def test_the_command(exported, tmp_path, capsys):
    checkpoint, _ = exported
    bv.save(checkpoint.with_heads("classify"), tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "stablehlo", "--length", "8",
                 "--check"]) == 0
    assert "largest difference of the program" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.stablehlo").stat().st_size > 1000
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "stablehlo", "--length", "65"]) == 1
    assert "length must lie between 1 and the model's 64 positions, got 65" in capsys.readouterr().err


def with_all_heads(name):
    import jax

    variant = bv.VARIANTS[name]
    network = variant.network(variant.dummy, tuple(variant.heads))
    return Checkpoint(network, network.init(jax.random.key(0)))


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(bv.VARIANTS))
def test_every_variant_with_all_its_heads(name, tmp_path):
    checkpoint = with_all_heads(name)
    assert difference(checkpoint, to_stablehlo(checkpoint, tmp_path, 24)) <= 1e-4
    assert Path(tmp_path / "model.stablehlo").is_file()


def test_onnx_gives_the_same_for_any_number_of_rows(exported, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    checkpoint, _ = exported
    to_onnx(checkpoint, tmp_path / "program", length=16)
    session = onnxruntime.InferenceSession(tmp_path / "program" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["classify", "last_hidden_state", "pooler_output", "tag"]
    for texts in (["the cat sat", "a bad film .", "the dog was on the mat", "", "good"], ["a good film"]):
        inputs = checkpoint.tokenizer(texts, padding=16)
        out = dict(zip(names, session.run(None, {key: np.asarray(value, np.int32) for key, value in inputs.items()}), strict=True))
        mine = checkpoint(**inputs)
        np.testing.assert_allclose(out["last_hidden_state"], mine.last_hidden_state, atol=1e-4)
        np.testing.assert_allclose(out["pooler_output"], mine.pooler_output, atol=1e-4)
        np.testing.assert_allclose(out["classify"], checkpoint.logits("classify", **inputs), atol=1e-4)
        np.testing.assert_allclose(out["tag"], checkpoint.logits("tag", **inputs), atol=1e-4)
    bv.save(checkpoint.with_heads("classify"), tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "onnx", "--length", "8", "--check"]) == 0
    assert "largest difference of the program" in capsys.readouterr().out
    assert "onnxruntime.InferenceSession" in (tmp_path / "out" / "README.md").read_text()


def test_onnx_of_a_checkpoint_in_bfloat16_is_float32(tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    checkpoint = bv.new("bert-tiny", heads=("classify",), dtype="bfloat16", param_dtype="bfloat16", vocab_size=4000,
                        initializer_range=0.2)
    size = [sum(file.stat().st_size for file in to_onnx(checkpoint, tmp_path, 8).iterdir()) for _ in range(2)]
    assert difference(checkpoint, tmp_path) <= 1e-4
    assert size[0] == size[1], "the second took the first's place"


def test_onnx_without_its_converter_says_what_to_install(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'bertvariants_jax\[onnx\]'"):
        to_onnx(exported[0], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(bv.VARIANTS))
def test_every_variant_with_all_its_heads_in_onnx(name, tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    checkpoint = with_all_heads(name)
    assert difference(checkpoint, to_onnx(checkpoint, tmp_path, 24)) <= 1e-4

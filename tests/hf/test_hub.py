"""Hub ids without a network: a made-up cache, and every way in which a download can fail."""

import importlib
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertvariants_jax.hf.hub import FILES, WEIGHTS, resolve
from bertvariants_jax.hf.tensors import read_tensors

OLD, NEW = "0" * 40, "1" * 40


@pytest.fixture
def hub():
    hub = pytest.importorskip("huggingface_hub")
    for part in ("constants", "errors", "utils"):  # its modules are loaded when they are asked for
        importlib.import_module(f"huggingface_hub.{part}")
    return hub


@pytest.fixture
def cache(tmp_path, hub, monkeypatch):
    """An empty cache, and a network that fails the test if anything asks for it."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)  # where no folder is called as a repository is

    def request(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub.HfApi, "repo_info", request)
    return tmp_path / "hub"


def add(cache, name, commit, value, refs=("main",), weights="model.safetensors"):
    """One commit of a repository, laid out as huggingface_hub does: refs, snapshots, blobs."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    for ref in refs:
        (repository / "refs" / ref).write_text(commit)
    files = {"config.json": b"{}", "vocab.txt": b"[PAD]\n"}
    for file, content in files.items():
        (repository / "blobs" / f"{commit}-{file}").write_bytes(content)
        (snapshot / file).symlink_to(f"../../blobs/{commit}-{file}")
    if weights:
        save_file({"a": np.full(2, value, np.float32)}, repository / "blobs" / f"{commit}-w")
        (snapshot / weights).symlink_to(f"../../blobs/{commit}-w")
    return snapshot


def failing(hub, monkeypatch, error):
    def request(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub.HfApi, "repo_info", request)


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500, message
    for word in words:
        assert word in message, message


def test_a_local_path_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "model.safetensors").touch()
    for path in (tmp_path, str(tmp_path), "org/name", "model.safetensors", "."):
        assert resolve(path).samefile(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/org/name") == tmp_path / "org" / "name"
    with pytest.raises(ValueError, match="local path has no revision"):
        resolve(tmp_path, revision="main")


@pytest.mark.parametrize(
    "name", ["./x", "/no/such/place", "a/b/c", "../x", "", "a//b", "-x", "x y"]
)
def test_what_can_only_be_a_path_is_told_so(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == "":
        assert resolve(name).samefile(".")  # as Path itself reads it
        return
    with pytest.raises(FileNotFoundError, match="no such file or folder") as caught:
        resolve(name)
    one_line(caught, name)


def test_the_cache_and_its_revisions(cache):
    old = add(cache, "org/name", OLD, 1, refs=("v1.0",))
    new = add(cache, "org/name", NEW, 2, refs=("main",))
    assert resolve("org/name", local_files_only=True) == new
    assert resolve("org/name", revision="main", local_files_only=True) == new
    assert resolve("org/name", revision="v1.0", local_files_only=True) == old
    assert resolve("org/name", revision=OLD, local_files_only=True) == old
    assert read_tensors(resolve("org/name", "v1.0", True))["a"].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError, match="not in the local cache") as caught:
        resolve("org/name", revision="v2.0", local_files_only=True)
    one_line(caught, "org/name at revision 'v2.0'", "local_files_only", "local folder")


def test_names_without_an_owner(cache):
    snapshot = add(cache, "some-model", NEW, 1)
    assert resolve("some-model", local_files_only=True) == snapshot
    with pytest.raises(FileNotFoundError) as caught:
        resolve("other-model", local_files_only=True)
    one_line(caught, "other-model", "not in the local cache", "local_files_only")


def test_a_part_of_a_repository_in_the_cache(cache):
    snapshot = add(cache, "org/name", NEW, 1, weights=None)
    assert resolve("org/name", local_files_only=True, weights=False) == snapshot
    with pytest.raises(FileNotFoundError) as caught:
        resolve("org/name", local_files_only=True)
    one_line(caught, "no model.safetensors and no pytorch_model.bin", str(snapshot), "network")
    (snapshot / "pytorch_model.bin").touch()
    assert resolve("org/name", local_files_only=True) == snapshot


def test_no_network(cache, hub, monkeypatch):
    httpx = pytest.importorskip(type(hub.get_session()).__module__.split(".")[0])
    snapshot = add(cache, "org/name", NEW, 1)
    for error in (httpx.ConnectError("no route"), httpx.ConnectTimeout("slow")):
        failing(hub, monkeypatch, error)
        assert resolve("org/name") == snapshot
        with pytest.raises(FileNotFoundError) as caught:
            resolve("org/other")
        one_line(caught, "org/other", "cannot be reached", "local folder")
    failing(hub, monkeypatch, httpx.ProxyError("407 proxy\nauthentication"))
    with pytest.raises(FileNotFoundError) as caught:
        resolve("org/name")
    one_line(caught, "download failed (ProxyError: 407 proxy authentication)", "try again")


def test_offline_mode(cache, hub, monkeypatch):
    snapshot = add(cache, "org/name", NEW, 1)
    failing(hub, monkeypatch, hub.errors.OfflineModeIsEnabled("HF_HUB_OFFLINE=1"))
    assert resolve("org/name") == snapshot
    with pytest.raises(FileNotFoundError) as caught:
        resolve("org/other")
    one_line(caught, "org/other", "cannot be reached")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RepositoryNotFoundError", ("nor a repository of the hub", "check the name")),
        ("GatedRepoError", ("gated", "log in")),
        ("RevisionNotFoundError", ("at revision 'x'", "no such revision")),
    ],
)
def test_what_the_hub_answers(cache, hub, monkeypatch, kind, words):
    def download(*args, **kwargs):
        raise type(kind, getattr(hub.errors, kind).__bases__, {"__init__": lambda self: None})()

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(FileNotFoundError) as caught:
        resolve("org/name", revision="x")
    one_line(caught, "org/name", "local folder", *words)


def test_an_id_that_the_hub_does_not_allow(cache):
    with pytest.raises(FileNotFoundError) as caught:
        resolve("org/two--dashes..and-dots")
    one_line(caught, "valid hub id")


def test_without_huggingface_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError) as caught:
        resolve("org/name")
    one_line(caught, "huggingface_hub is not installed", "local folder")


def matching(hub, names, patterns):
    return set(hub.utils.filter_repo_objects(names, allow_patterns=list(patterns)))


@pytest.mark.parametrize("safetensors", [True, False])
def test_what_is_downloaded(tmp_path, hub, monkeypatch, safetensors):
    """A repository as large ones are: of its many formats only one is fetched."""
    monkeypatch.chdir(tmp_path)
    wanted = {"config.json", "tokenizer.json", "vocab.txt", "spiece.model", "1_Pooling/config.json"}
    wanted |= {"modules.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
    torch = {
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
    }
    held = wanted | torch | {"tf_model.h5", "flax_model.msgpack", "rust_model.ot", "README.md"}
    held |= {
        "onnx/model.onnx",
        "onnx/model.safetensors",
        "openvino/config.json",
        "training_args.bin",
    }
    if safetensors:
        wanted |= {"model.safetensors", "model-00001-of-00002.safetensors"}
        wanted |= {"model.safetensors.index.json"}
        held |= wanted
    else:
        wanted |= torch
    fetched = set()

    def download(name, revision, local_files_only, allow_patterns):
        assert (name, revision, local_files_only) == ("org/name", "v1", False)
        for file in matching(hub, sorted(held), allow_patterns):
            path = tmp_path / "snapshot" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            fetched.add(file)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert resolve("org/name", revision="v1") == tmp_path / "snapshot"
    assert fetched == wanted
    assert not matching(hub, ["model.safetensors", "pytorch_model.bin"], FILES)
    assert not matching(hub, ["pytorch_model.bin"], WEIGHTS)

"""Safetensors, whole and sharded: round trips, damage told in a line, harmless failed writes."""

import json
import resource
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertvariants_jax.hf import tensors as module
from bertvariants_jax.hf.tensors import read_tensors, write_tensors


def examples():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(5, 7))
    return {
        "float32": normal.astype(np.float32),
        "float16": normal.astype(np.float16),
        "bfloat16": normal.astype(ml_dtypes.bfloat16),
        "float64": normal,
        "int64": np.arange(6).reshape(2, 3),
        "int32": np.arange(4, dtype=np.int32),
        "uint8": np.arange(4, dtype=np.uint8),
        "bool": np.array([True, False, True]),
        "transposed": normal.astype(np.float32).T,
        "strided": normal.astype(np.float32)[::2, 1::3],
        "big endian": normal.astype(">f4"),
        "scalar": np.array(3.0, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "float8": normal.astype(ml_dtypes.float8_e4m3fn),
    }


def assert_equal(read, expected):
    assert set(read) == set(expected) and len(read) == len(expected)
    for name, array in expected.items():
        got = read[name]
        assert got.dtype == array.dtype.newbyteorder("="), name
        assert got.shape == array.shape == read.shape(name), name
        assert read.dtype(name) == got.dtype and read.nbytes(name) == array.nbytes
        assert got.tobytes() == array.astype(got.dtype).tobytes(), name


def test_round_trip_of_every_dtype_and_layout(tmp_path):
    assert write_tensors(tmp_path / "new", examples()) == [tmp_path / "new" / "model.safetensors"]
    assert_equal(read_tensors(tmp_path / "new"), examples())
    assert_equal(read_tensors(tmp_path / "new" / "model.safetensors"), examples())
    header = (tmp_path / "new" / "model.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + struct.unpack("<Q", header[:8])[0]])["__metadata__"] == {
        "format": "pt"
    }


def test_the_library_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    plain = {name: examples()[name] for name in ("float32", "bfloat16", "int64", "bool")}
    write_tensors(tmp_path, plain)
    for name, array in load_file(tmp_path / "model.safetensors").items():
        assert array.dtype == plain[name].dtype and array.tobytes() == plain[name].tobytes()
    save_file(plain, tmp_path / "other.safetensors")
    assert_equal(read_tensors(tmp_path / "other.safetensors"), plain)


def test_reading_is_lazy_and_gives_arrays_of_their_own(tmp_path):
    write_tensors(tmp_path, {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)})
    tensors = read_tensors(tmp_path)
    path = tmp_path / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = struct.pack("<f", 5.0)
    with open(path, "r+b") as file:  # in place: the mapping sees it, so nothing had been read
        file.write(raw)
    assert tensors["b"].tolist() == [1.0, 5.0]
    first = tensors["a"]
    first += 1
    assert tensors["a"].tolist() == [0, 0, 0, 0]
    assert "a" in tensors and "c" not in tensors and 3 not in tensors
    with pytest.raises(KeyError):
        tensors["c"]


def test_sharded_round_trip(tmp_path):
    arrays = {f"t{i}": np.full((10, 10), i, np.float32) for i in range(5)}
    paths = write_tensors(tmp_path, arrays, max_shard_bytes=800)
    assert [path.name for path in paths] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 500, "total_size": 2000}
    assert index["weight_map"]["t4"] == "model-00003-of-00003.safetensors"
    assert_equal(read_tensors(tmp_path), arrays)
    assert_equal(read_tensors(tmp_path / "model.safetensors.index.json"), arrays)
    # a tensor larger than a shard has a file of its own
    assert len(write_tensors(tmp_path, arrays, max_shard_bytes=1)) == 5
    assert_equal(read_tensors(tmp_path), arrays)
    # from shards to shards without ever holding all: a lazy mapping over files being replaced
    assert len(write_tensors(tmp_path, read_tensors(tmp_path), max_shard_bytes=1200)) == 2
    assert_equal(read_tensors(tmp_path), arrays)


def test_new_weights_take_the_place_of_old_ones(tmp_path):
    old, new = {"a": np.zeros(100, np.float32)}, {"a": np.ones(100, np.float32)}
    two = {"a": np.full(100, 2, np.float32), "b": np.full(100, 2, np.float32)}
    for first, second in ((old, two), (two, new), (two, old), (new, two)):
        write_tensors(tmp_path, first, max_shard_bytes=400)
        write_tensors(tmp_path, second, max_shard_bytes=400)
        assert_equal(read_tensors(tmp_path), second)
        held = sorted(path.name for path in tmp_path.iterdir())
        assert len(held) == (1 if len(second) == 1 else 3), held


def test_safetensors_are_preferred(tmp_path):
    write_tensors(tmp_path, {"a": np.ones(1, np.float32)})
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02never read")
    assert list(read_tensors(tmp_path)) == ["a"]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_full_disk_leaves_the_earlier_weights(tmp_path, shards):
    old = {"a": np.arange(10, dtype=np.float32)}
    write_tensors(tmp_path, old)
    before = (tmp_path / "model.safetensors").read_bytes()
    big = {f"t{i}": np.zeros(500_000 * (i + 1), np.float32) for i in range(2)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))  # fits the first shard only
    try:
        with pytest.raises(OSError, match="cannot write the weights"):
            write_tensors(tmp_path, big, max_shard_bytes=6_000_000 // shards)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_stop_between_the_renames_never_reads_as_a_mix(tmp_path, monkeypatch):
    old = {f"t{i}": np.zeros(100, np.float32) for i in range(3)}
    new = {f"t{i}": np.ones(100, np.float32) for i in range(3)}
    replace = module.os.replace
    for stop in range(4):
        folder = tmp_path / str(stop)
        write_tensors(folder, old, max_shard_bytes=400)
        calls = []

        def stopping(source, target, stop=stop, calls=calls):
            if len(calls) == stop:
                raise OSError("stopped")
            calls.append(target)
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(module.os, "replace", stopping)
            with pytest.raises(OSError, match="stopped"):
                write_tensors(folder, new, max_shard_bytes=400)
        with pytest.raises(FileNotFoundError, match="no weights"):
            read_tensors(folder)


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'bad'.*complex64"):
        write_tensors(tmp_path, {"bad": np.zeros(2, np.complex64)})
    with pytest.raises(ValueError, match=r"'bad'.*object"):
        write_tensors(tmp_path, {"bad": np.array(["x", None])})
    with pytest.raises(ValueError, match="names are strings"):
        write_tensors(tmp_path, {3: np.zeros(2)})
    with pytest.raises(ValueError, match="max_shard_bytes"):
        write_tensors(tmp_path, {"a": np.zeros(2)}, max_shard_bytes=0)
    assert list(tmp_path.iterdir()) == []


def damaged(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"abc", "3 bytes, at least 8"),
        (b"\xff" * 100, "claims a header of"),
        (damaged({"a": ROW}, length=5000), "truncated: 5,008 bytes expected for its header"),
        (damaged(b"{" * 40), "damaged safetensors header"),
        (damaged(b"[" * 100_000), "damaged safetensors header"),
        (damaged(b"[]"), "damaged safetensors header"),
        (damaged(b"\xff\xfe"), "damaged safetensors header"),
        (damaged({"a": 3}), "damaged safetensors header"),
        (damaged({"a": {**ROW, "dtype": "F3"}}, b"x" * 8), "unknown dtype 'F3'"),
        (damaged({"a": {**ROW, "shape": [-2]}}, b"x" * 8), "whole numbers"),
        (damaged({"a": {**ROW, "shape": [2.0]}}, b"x" * 8), "whole numbers"),
        (damaged({"a": {**ROW, "shape": [1] * 100}}, b"x" * 8), "whole numbers"),
        (damaged({"a": {**ROW, "shape": [3]}}, b"x" * 8), "tensor 'a', F32 \\[3\\]"),
        (damaged({"a": ROW, "b": ROW}, b"x" * 8), "tensor 'b'"),
        (damaged({"a": ROW}, b"x" * 7), "truncated: 7[0-9] bytes expected, 7[0-9] found"),
        (damaged({"a": ROW}, b"x" * 9), "belong to no tensor"),
        (b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tensors(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path):
    write_tensors(tmp_path, {"a": np.ones((3, 4), np.float32), "b": np.ones(2, np.int64)})
    whole = (tmp_path / "model.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.safetensors"):
            read_tensors(path)


def sharded(folder):
    arrays = {f"t{i}": np.full(4, i, np.float32) for i in range(3)}
    write_tensors(folder, arrays, max_shard_bytes=16)
    return folder / "model.safetensors.index.json"


def rewrite(index, weight_map):
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_missing_shards_and_tensors_are_named(tmp_path):
    index = sharded(tmp_path)
    weight_map = json.loads(index.read_text())["weight_map"]
    rewrite(index, weight_map | {"lost": "model-00001-of-00003.safetensors"})
    with pytest.raises(ValueError, match=r"1 tensors .*lost \(model-00001-of-00003"):
        read_tensors(tmp_path)
    rewrite(index, {name: weight_map[name] for name in ("t0", "t1", "t2")})
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards: model-00002-of-00003.safetensors"):
        read_tensors(tmp_path)


def test_tensors_that_the_index_forgot_are_kept(tmp_path):
    save_file({"a": np.ones(1), "b": np.ones(2)}, tmp_path / "one.safetensors")
    rewrite(tmp_path / "model.safetensors.index.json", {"a": "one.safetensors"})
    assert sorted(read_tensors(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_one_clear_line(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="not an index of shards"):
        read_tensors(tmp_path)


def test_an_index_cannot_leave_its_folder(tmp_path):
    folder = tmp_path / "model"
    index = sharded(folder)
    outside = tmp_path / "outside.safetensors"
    save_file({"a": np.ones(1)}, outside)
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "away").symlink_to(tmp_path)
    (folder / "circle.safetensors").symlink_to("circle.safetensors")
    (folder / "sub").mkdir()
    save_file({"a": np.ones(1)}, folder / "sub" / "in.safetensors")
    escapes = [
        str(outside),
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "link.safetensors",
    ]
    escapes += [
        "away/outside.safetensors",
        "",
        "..\\outside.safetensors",
        "a\0b",
        "circle.safetensors",
    ]
    for shard in escapes:
        rewrite(index, {"a": shard})
        with pytest.raises(
            (ValueError, FileNotFoundError), match=r"refused|missing 1 of 1"
        ) as caught:
            read_tensors(folder)
        assert shard == "circle.safetensors" or "refused" in str(caught.value)
    rewrite(index, {"a": "sub/in.safetensors"})
    assert list(read_tensors(folder)) == ["a"]
    rewrite(index, {"a": index.name})
    with pytest.raises(ValueError, match="another index"):
        read_tensors(folder)


def test_a_hub_snapshot_may_link_to_its_own_blobs(tmp_path):
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save_file({"a": np.ones(1)}, blobs / "cafe")
    (snapshot / "one.safetensors").symlink_to("../../blobs/cafe")
    rewrite(snapshot / "model.safetensors.index.json", {"a": "one.safetensors"})
    assert read_tensors(snapshot)["a"].tolist() == [1.0]


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds: nothing"):
        read_tensors(tmp_path)
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*holds: tf_model\.h5"):
        read_tensors(tmp_path)
    for name in ("none", "none.safetensors", "none.index.json"):
        with pytest.raises(FileNotFoundError, match=name):
            read_tensors(tmp_path / name)

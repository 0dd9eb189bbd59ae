"""TensorFlow checkpoints without TensorFlow: real TF1 files, and bundles made here."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from bertvariants_jax.hf.tf_bundle import MAGIC, _crc32c, _masked, read_tf_checkpoint

NUMBERS = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9,
    "bool": 10, "bfloat16": 14, "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip


# A writer of the format, as small as the tests allow


def crc(data):
    return _masked(_crc32c(np.frombuffer(data, np.uint8)))


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def entry(dtype, shape, shard, offset, data, checksum=None, extra=b""):
    dims = b"".join(field(2, field(1, size)) for size in shape)
    checksum = crc(data) if checksum is None else checksum
    message = field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset)
    message += field(5, len(data)) + extra
    return message + varint(6 << 3 | 5) + struct.pack("<I", checksum)


def block(rows, kind=0):
    out, last = b"", b""
    for key, value in rows:
        shared = 0
        while shared < min(len(last), len(key)) and last[shared] == key[shared]:
            shared += 1
        out += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        last = key
    out += struct.pack("<II", 0, 1) + bytes([kind])
    return out + struct.pack("<I", crc(out))


def table(rows, per_block=3, kind=0):
    rows = sorted(rows.items())
    out, handles = b"", []
    for i in range(0, len(rows), per_block):
        data = block(rows[i : i + per_block], kind)
        handles.append((rows[min(i + per_block, len(rows)) - 1][0], len(out), len(data) - 5))
        out += data
    index = block([(key, varint(offset) + varint(size)) for key, offset, size in handles])
    footer = varint(0) + varint(0) + varint(len(out)) + varint(len(index) - 5)
    return out + index + footer.ljust(40, b"\0") + MAGIC


def write(prefix, arrays, shards=1, extra=None, header=b"", **how):
    rows = {b"": field(1, shards) + header} | (extra or {})
    files = [b""] * shards
    for i, (name, array) in enumerate(arrays.items()):
        data, shard = array.tobytes(), i % shards
        dtype = NUMBERS[array.dtype.name]
        rows[name.encode()] = entry(dtype, array.shape, shard, len(files[shard]), data)
        files[shard] += data
    for i, data in enumerate(files):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(data)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(rows, **how))
    return prefix


def examples():
    normal = np.random.default_rng(0).normal(size=(4, 6)) * 10
    kinds = [
        np.float32,
        np.float64,
        np.float16,
        ml_dtypes.bfloat16,
        np.int64,
        np.int32,
        np.int16,
        np.int8,
    ]
    kinds += [np.uint8, np.bool_]
    arrays = {
        f"model/layer_{i}/{np.dtype(kind)}": normal.astype(kind) for i, kind in enumerate(kinds)
    }
    unsigned = {f"u/{size}": np.arange(5, dtype=f"u{size}") for size in (2, 4, 8)}
    return (
        arrays | unsigned | {"scalar": np.array(3, np.int64), "none": np.zeros((0, 3), np.float32)}
    )


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("per_block", [1, 4, 100])
def test_every_dtype_over_blocks_and_shards(tmp_path, shards, per_block):
    arrays = examples()
    tensors = read_tf_checkpoint(
        write(tmp_path / "model.ckpt", arrays, shards, per_block=per_block)
    )
    assert list(tensors) == sorted(arrays)
    for name, array in arrays.items():
        assert tensors.shape(name) == array.shape and tensors.dtype(name) == array.dtype, name
        got = tensors[name]
        assert got.dtype == array.dtype and got.tobytes() == array.tobytes(), name
        assert got.flags.writeable


def test_ways_to_name_a_checkpoint(tmp_path):
    prefix = write(tmp_path / "model.ckpt-20", {"a": np.ones(3, np.float32)})
    for suffix in ("", ".index", ".data-00000-of-00001", ".meta"):
        assert list(read_tf_checkpoint(f"{prefix}{suffix}")) == ["a"]
    assert list(read_tf_checkpoint(tmp_path)) == ["a"]
    write(tmp_path / "model.ckpt-30", {"b": np.ones(3, np.float32)})
    with pytest.raises(
        ValueError, match=r"2 checkpoints: model\.ckpt-20, model\.ckpt-30; name one"
    ):
        read_tf_checkpoint(tmp_path)
    assert list(read_tf_checkpoint(tmp_path / "model.ckpt-30")) == ["b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \*\.index file"):
        read_tf_checkpoint(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt\.index does not exist"):
        read_tf_checkpoint(tmp_path / "none.ckpt")


def test_strings_are_left_out(tmp_path):
    graph = {b"_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, (), 0, 0, b"abc")}
    assert list(read_tf_checkpoint(write(tmp_path / "m", {"a": np.ones(1)}, extra=graph))) == ["a"]


def test_the_bert_fixture(shared_data):
    folder = shared_data / "ckpt_fixtures" / "tf1_bert_tiny"
    config = json.loads((folder / "bert_config.json").read_text())
    width, inner, layers = (
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
    )
    tensors = read_tf_checkpoint(folder)
    slots = ("/adam_m", "/adam_v")
    weights = {name: array for name, array in tensors.items() if not name.endswith(slots)}
    assert len(weights) == 5 + 16 * layers + 2 + 5 + 2 + 1  # BERT, pooler, two heads, global_step
    assert len(tensors) == 3 * (len(weights) - 1) + 1
    assert weights.pop("global_step").dtype == np.int64
    shapes = {
        "bert/embeddings/word_embeddings": (config["vocab_size"], width),
        "bert/embeddings/position_embeddings": (config["max_position_embeddings"], width),
        "bert/embeddings/token_type_embeddings": (config["type_vocab_size"], width),
        "bert/encoder/layer_1/attention/self/query/kernel": (width, width),
        "bert/encoder/layer_1/intermediate/dense/kernel": (width, inner),
        "bert/encoder/layer_1/output/dense/kernel": (inner, width),
        "cls/predictions/output_bias": (config["vocab_size"],),
        "cls/seq_relationship/output_weights": (2, width),
    }
    for name, shape in shapes.items():
        assert weights[name].shape == tensors.shape(name) == shape, name
    for name, array in weights.items():
        assert array.dtype == np.float32 and np.isfinite(array).all(), name
        around = 1 if name.endswith("gamma") else 0
        assert np.abs(array - around).max() < 0.1, name


@pytest.mark.parametrize("name", ["tf1_xlnet_empty", "tf1_xlnet_tune"])
def test_the_xlnet_fixtures(shared_data, name):
    folder = shared_data / "ckpt_fixtures" / name
    config = json.loads((folder / "xlnet_config.json").read_text())
    width, heads, size, layers = (config[key] for key in ("d_model", "n_head", "d_head", "n_layer"))
    tensors = read_tf_checkpoint(folder / "xlnet_model.ckpt")
    assert len(tensors) == 13 * layers + 5
    prefix = "model/transformer"
    bias = (layers, heads, size) if config["untie_r"] else (heads, size)
    assert tensors.shape(f"{prefix}/r_w_bias") == bias
    assert tensors.shape(f"{prefix}/word_embedding/lookup_table") == (config["n_token"], width)
    assert tensors.shape(f"{prefix}/seg_embed") == (layers, 2, heads, size)
    assert tensors.shape(f"{prefix}/layer_1/rel_attn/o/kernel") == (width, heads, size)
    assert tensors.shape(f"{prefix}/layer_1/ff/layer_1/kernel") == (width, config["d_inner"])
    for name, array in tensors.items():
        assert array.dtype == np.float32 and np.isfinite(array).all(), name
        assert np.abs(array - name.endswith("gamma")).max() < 0.2, name


def test_what_this_reader_does_not_do_is_said(tmp_path):
    arrays = {"a": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="snappy"):
        read_tf_checkpoint(write(tmp_path / "m", arrays, kind=1))
    with pytest.raises(ValueError, match="big-endian"):
        read_tf_checkpoint(write(tmp_path / "m", arrays, header=field(2, 1)))
    part = {b"p": entry(1, (4,), 0, 0, b"", extra=field(7, b"")), b"\0p slice": b""}
    with pytest.raises(ValueError, match=r"'p' is stored in slices"):
        read_tf_checkpoint(write(tmp_path / "m", arrays, extra=part))
    with pytest.raises(ValueError, match=r"'q' has dtype number 21"):
        read_tf_checkpoint(write(tmp_path / "m", arrays, extra={b"q": entry(21, (), 0, 0, b"")}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (entry(1, (2,), 0, 0, b"x" * 12), r"'q', float32 \[2\], is said to have 12 bytes"),
        (entry(1, (1 << 63,), 0, 0, b""), "no valid shape"),
        (entry(1, (1,) * 40, 0, 0, b"x" * 4), "no valid shape"),
        (entry(1, (3,), 0, 1 << 62, b"x" * 12), r"data-00000-of-00001: truncated: .* 12 found"),
        (b"\x08", "cut off"),
        (b"\x12\x7f", "cut off"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x01a", "wrong type"),
        (b"\xff" * 20, "cut off"),
    ],
)
def test_damaged_entries(tmp_path, row, message):
    prefix = write(tmp_path / "m", {"a": np.ones(3, np.float32)}, extra={b"q": row})
    with pytest.raises(ValueError, match=message) as caught:
        read_tf_checkpoint(prefix)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_truncated_data(tmp_path):
    arrays = {f"v{i}": np.ones(100, np.float32) for i in range(4)}
    prefix = write(tmp_path / "m", arrays, shards=2)
    path = tmp_path / "m.data-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"data-00001-of-00002: truncated: .*'v3' needs 800 bytes, 799"
    ):
        read_tf_checkpoint(prefix)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="data-00001-of-00002"):
        read_tf_checkpoint(prefix)


def test_checksums(tmp_path):
    prefix = write(tmp_path / "m", {"a": np.ones(100, np.float32), "b": np.ones(2, np.float32)})
    path = tmp_path / "m.data-00000-of-00001"
    raw = bytearray(path.read_bytes())
    raw[17] ^= 4
    path.write_bytes(raw)
    tensors = read_tf_checkpoint(prefix)
    assert tensors["b"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"data-00000-of-00001: damaged: .*'a'"):
        tensors["a"]


def test_any_damage_to_the_index_is_noticed(tmp_path):
    prefix = write(tmp_path / "m", {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)})
    path = tmp_path / "m.index"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m\.index"):
            read_tf_checkpoint(prefix)
    for place in range(len(whole)):
        raw = bytearray(whole)
        raw[place] ^= 0x15
        path.write_bytes(raw)
        try:
            got = {name: array.tolist() for name, array in read_tf_checkpoint(prefix).items()}
        except ValueError as error:
            assert str(path) in str(error)
        else:  # the padding of the footer, and the handle of the metaindex, which holds nothing
            assert len(whole) - 48 <= place < len(whole) - 8 and len(got) == 2


def test_crc32c_is_the_published_one():
    # RFC 3720, appendix B.4, and the check value of the CRC catalogue
    assert _crc32c(np.zeros(32, np.uint8)) == 0x8A9136AA
    assert _crc32c(np.full(32, 255, np.uint8)) == 0x62A8AB43
    assert _crc32c(np.arange(32, dtype=np.uint8)) == 0x46DD794E
    assert _crc32c(np.arange(31, -1, -1).astype(np.uint8)) == 0x113FDB5C
    assert _crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283

    def plain(data):
        register = 0xFFFFFFFF
        for byte in data.tolist():
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (register & 1) * 0x82F63B78
        return register ^ 0xFFFFFFFF

    data = np.random.default_rng(0).integers(0, 256, 70_001).astype(np.uint8)
    for size in (0, 1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097, 70_001):
        assert _crc32c(data[:size]) == plain(data[:size]), size

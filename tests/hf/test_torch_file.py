"""PyTorch files without torch: both formats, and pickles that must be refused, not run."""

import collections
import io
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from bertvariants_jax.hf.tensors import read_tensors
from bertvariants_jax.hf.torch_file import MAGIC, open_torch, read_torch

# A pickle of a state dict by hand, so that these tests need no torch.


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value):
    return b"J" + struct.pack("<i", value) if value < 1 << 31 else pickle.dumps(value, 2)[2:-1]


def numbers(values):
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def tensor(key, count, shape, strides=None, offset=0, storage="FloatStorage", view=b""):
    if strides is None:
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    identity = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu")
    identity += integer(count) + view + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + integer(offset) + numbers(shape)
        + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def state(entries, tail=b""):
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u" + tail + b"."


def write_zip(path, program, storages, compression=zipfile.ZIP_STORED, byteorder=None):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
    return path


def write_stream(path, program, storages, little=True):
    order = "<" if little else ">"
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    with open(path, "wb") as file:
        for value in (MAGIC, 1001, system):
            pickle.dump(value, file, 2)
        file.write(program)
        pickle.dump(list(storages), file, 2)
        for data in storages.values():
            file.write(struct.pack(f"{order}q", len(data) // 4) + data)
    return path


SIX = np.arange(6, dtype=np.float32)
ENTRIES = {
    "whole": tensor("0", 6, (2, 3)),
    "transposed": tensor("0", 6, (3, 2), (1, 3)),
    "part": tensor("0", 6, (2,), (2,), offset=1),
    "expanded": tensor("0", 6, (4, 2), (0, 1)),
    "scalar": tensor("0", 6, (), (), offset=5),
    "empty": tensor("0", 6, (0, 3), (3, 1)),
}
EXPECTED = {
    "whole": SIX.reshape(2, 3), "transposed": SIX.reshape(2, 3).T, "part": SIX[[1, 3]],
    "expanded": np.tile(SIX[:2], (4, 1)), "scalar": SIX[5], "empty": np.zeros((0, 3), np.float32),
}  # fmt: skip


def assert_equal(got, expected):
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].shape == array.shape and got[name].dtype == array.dtype, name
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_views_of_one_storage_in_both_formats_and_byte_orders(tmp_path, kind, order):
    data = SIX.astype("<f4" if order == "little" else ">f4").tobytes()
    path = tmp_path / "pytorch_model.bin"
    if kind == "zip":
        write_zip(path, state(ENTRIES), {"0": data}, byteorder=order)
    else:
        write_stream(path, state(ENTRIES), {"0": data}, little=order == "little")
    assert_equal(read_torch(path), EXPECTED)
    assert_equal(read_tensors(tmp_path), EXPECTED)
    lazy = open_torch(path)
    assert lazy.shape("transposed") == (3, 2) and lazy.dtype("whole") == np.float32
    array = lazy["whole"]
    array += 1  # writable, and its own
    assert lazy["whole"].tolist() == SIX.reshape(2, 3).tolist()


def test_the_stream_formats_views_of_storages(tmp_path):
    view = text("1") + integer(2) + integer(3) + b"\x87"  # elements 2 to 5 of the storage
    program = state({"a": tensor("0", 6, (3,), view=view), "b": tensor("0", 6, (6,), view=b"N")})
    got = read_torch(write_stream(tmp_path / "m.bin", program, {"0": SIX.tobytes()}))
    assert_equal(got, {"a": SIX[2:5], "b": SIX})


def test_metadata_of_modules_is_skipped(tmp_path):
    tail = b"}" + text("_metadata") + b"ccollections\nOrderedDict\n)R(" + text("") + b"}u" + b"sb"
    path = write_zip(
        tmp_path / "m.bin", state({"a": tensor("0", 6, (6,))}, tail), {"0": SIX.tobytes()}
    )
    assert_equal(read_torch(path), {"a": SIX})


def test_the_fixture(shared_data):
    folder = shared_data / "ckpt_fixtures" / "hf_bert_xsmall_dummy"
    tensors = read_tensors(folder)
    assert len(tensors) == 23
    assert tensors.shape("embeddings.word_embeddings.weight") == (250, 20)
    assert tensors.shape("embeddings.position_embeddings.weight") == (512, 20)
    assert tensors["embeddings.LayerNorm.weight"].tolist() == [1.0] * 20
    assert tensors["embeddings.LayerNorm.bias"].tolist() == [0.0] * 20
    for name, array in tensors.items():
        assert array.dtype == np.float32 and np.isfinite(array).all(), name
        if array.ndim == 2:
            assert 0.015 < array.std() < 0.025, name


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (eval, ("open({!r}, 'w')",), "builtin.*eval"),
        (exec, ("open({!r}, 'w')",), "builtin.*exec"),
        (os.mkdir, ("{}",), "posix.mkdir"),
        (getattr, (collections.OrderedDict, "clear"), "builtin.*getattr"),
        (open, ("{}", "w"), "(io|_io).open"),
    ],
)
def test_other_pickles_are_refused_and_not_run(tmp_path, kind, protocol, function, args, name):
    mark = tmp_path / "run"
    args = [arg.format(str(mark)) if isinstance(arg, str) else arg for arg in args]
    program = pickle.dumps({"a": Evil(function, *args)}, protocol)
    path = tmp_path / "pytorch_model.bin"
    write_zip(path, program, {}) if kind == "zip" else write_stream(path, program, {})
    with pytest.raises(ValueError, match=name) as caught:
        read_torch(path)
    assert str(path) in str(caught.value) and "nothing was run" in str(caught.value)
    assert not mark.exists()


OD = b"ccollections\nOrderedDict\n"
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
BOMB = b"\x80\x02)" + b"2\x86" * 3 + b"."
NEST = b"\x80\x02)q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(60))  # 2**60 leaves


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (pickle.dumps([1, 2], 2), "holds a list, not a state dict"),
        (pickle.dumps("text", 2), "holds a str"),
        (pickle.dumps({"state_dict": {}}, 2), "'state_dict' is a dict.*model.state_dict"),
        (pickle.dumps({"epoch": 3}, 2), "'epoch' is a int, not a tensor"),
        (pickle.dumps({3: 3}, 2), "'3' is a int, not a tensor"),
        (state({"a": b"ctorch\nFloatStorage\n"}), "'a' is a reference to torch.FloatStorage"),
        (b"\x80\x02" + OD + b"}b.", "changes a reference to collections.OrderedDict"),
        (REBUILD + b"}" + text("__defaults__") + b"Nsb.", "changes a reference to torch._utils"),
        (b"\x80\x02" + OD + b"}R.", "calls OrderedDict with a dict"),
        (b"\x80\x02" + text("eval") + b")R.", "calls a str"),
        (b"\x80\x02" + OD + b")\x81.", "instruction NEWOBJ"),
        (b"\x80\x02(i__main__\nX\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02Pstorage\n.", "instruction PERSID"),
        (BOMB, "instruction DUP"),
        (NEST + b".", "holds a tuple"),
        (NEST + b"}h\x00Ns.", "a tuple as a key"),
        (NEST + b"h\x00h\x00\x93.", "names a global by a tuple"),
        (b"\x80\x02" + text("x") + b"Q.", "damaged|refused"),
        (b"\x80\x02(" + text("module") + b"NNNNtQ.", "outside that is not a tensor's storage"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02r\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x02\xff.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (state({"a": tensor("0", 6, (7,))}), "outside its storage"),
        (state({"a": tensor("0", 6, (2, 3), (3, 2))}), "outside its storage"),
        (state({"a": tensor("0", 6, (2,), offset=5)}), "outside its storage"),
        (state({"a": tensor("0", 6, (2,), offset=-1)}), "no valid shape"),
        (state({"a": tensor("0", 6, (2,), (-1,), offset=3)}), "no valid shape"),
        (state({"a": tensor("0", 6, (-2,))}), "no valid shape"),
        (state({"a": tensor("0", 6, (2, 3), (1,))}), "no valid shape"),
        (state({"a": tensor("0", 6, (1,) * 40)}), "no valid shape"),
        (state({"a": tensor("0", 9, (9,))}), "needs 36 bytes of storage '0', which has 24"),
        (state({"a": tensor("0", -6, (0,))}), "no valid size"),
        (state({"a": tensor("0", 6, (1 << 40, 1), (0, 0))}), "far larger than its storage"),
        (state({"a": tensor("5", 6, (6,))}), "no entry archive/data/5"),
        (state({"a": tensor("0", 6, (6,), storage="QInt8Storage")}), "torch.QInt8Storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\x01\x88NtR.", "parameter holds a int"),
    ],
)  # fmt: skip
def test_a_bad_pickle_is_one_clear_line(tmp_path, program, message):
    path = write_zip(tmp_path / "m.bin", program, {"0": SIX.tobytes()})
    with pytest.raises(ValueError, match=message) as caught:
        read_torch(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_damaged_archives(tmp_path):
    path = tmp_path / "m.bin"
    good = {"a": tensor("0", 6, (6,))}
    write_zip(path, state(good), {"0": SIX.tobytes()})
    whole = path.read_bytes()
    for size in (1, 3, 4, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m\.bin"):
            read_torch(path)
    place = whole.index(SIX.tobytes())
    path.write_bytes(whole[:place] + b"\x01" + whole[place + 1 :])
    lazy = open_torch(path)
    with pytest.raises(ValueError, match=r"m\.bin.*'a'.*checksum of entry archive/data/0"):
        lazy["a"]
    with pytest.raises(ValueError, match="compressed"):
        read_torch(write_zip(path, state(good), {"0": SIX.tobytes()}, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="byte order"):
        read_torch(write_zip(path, state(good), {"0": SIX.tobytes()}, byteorder="middle"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "x")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        read_torch(path)


def test_damaged_streams(tmp_path):
    path = write_stream(
        tmp_path / "m.bin", state({"a": tensor("0", 6, (6,))}), {"0": SIX.tobytes()}
    )
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m\.bin"):
            read_torch(path)
    for change in (b"\xff" * 8, struct.pack("<q", 1 << 60), struct.pack("<q", 5)):
        path.write_bytes(whole[:-32] + change + whole[-24:])
        with pytest.raises(ValueError, match=r"truncated|needs"):
            read_torch(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(ValueError, match="magic number"):
        read_torch(path)
    path.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="not a PyTorch file"):
        read_torch(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        read_torch(path)
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "none.bin")


def test_random_damage_never_gets_past_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.bin"
    for write in (write_zip, write_stream):
        whole = write(path, state(ENTRIES), {"0": SIX.tobytes()}).read_bytes()
        for _ in range(300):
            raw = bytearray(whole)
            for place in rng.integers(0, len(raw), rng.integers(1, 4)):
                raw[place] = rng.integers(0, 256)
            path.write_bytes(raw)
            try:
                read_torch(path)
            except ValueError as error:
                assert str(path) in str(error)


# Against torch itself


@pytest.mark.peers
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(6, 8, generator=generator)
    kinds = (
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool,
    )  # fmt: skip
    model = {str(kind): (normal * 10).to(kind) for kind in kinds}
    model |= {
        "transposed": normal.T, "slice": normal[1:4, ::3], "row": normal[2], "same": normal,
        "expanded": torch.arange(5).expand((3, -1)), "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(normal * 2),
        "frozen": torch.nn.Parameter(normal * 3, requires_grad=False),
        "tied": torch.nn.Parameter(normal * 2).T, "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
    }  # fmt: skip
    if zipped:
        model |= {"uint16": torch.arange(4).to(torch.uint16)}
        model |= {"float8": normal.to(torch.float8_e4m3fn)}
    special = torch.nn.Parameter(normal * 4)
    special.note = "an attribute of a parameter"
    model["special"] = special
    path = tmp_path / "pytorch_model.bin"
    torch.save(collections.OrderedDict(model), path, _use_new_zipfile_serialization=zipped)
    got = read_torch(path)
    assert list(got) == list(model)
    for name, value in model.items():
        assert got[name].shape == tuple(value.shape), name
        assert str(got[name].dtype) == str(value.dtype).removeprefix("torch."), name
        assert np.array_equal(got[name].astype(np.float64), value.detach().double().numpy()), name


@pytest.mark.peers
@pytest.mark.parametrize("zipped", [True, False])
def test_a_module_of_torch(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LayerNorm(4)
    )
    model[0].register_buffer("ids", torch.arange(9).expand((1, -1)))
    path = tmp_path / "m.bin"
    for protocol in (2, 4, 5):
        torch.save(
            model.state_dict(),
            path,
            _use_new_zipfile_serialization=zipped,
            pickle_protocol=protocol,
        )
        got = read_torch(path)
        assert_equal(got, {name: value.numpy() for name, value in model.state_dict().items()})
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"refused: the pickle asks for torch.nn.modules"):
        read_torch(path)
    torch.save(
        {"model": model.state_dict(), "step": 3}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ValueError, match="'model' is a dict, not a tensor"):
        read_torch(path)
    torch.save([normal for normal in model.state_dict().values()], path)
    with pytest.raises(ValueError, match="holds a list"):
        read_torch(path)


@pytest.mark.peers
def test_the_fixture_reads_as_torch_reads_it(shared_data):
    torch = pytest.importorskip("torch")
    path = shared_data / "ckpt_fixtures" / "hf_bert_xsmall_dummy" / "pytorch_model.bin"
    expected = torch.load(path, weights_only=True)
    assert_equal(read_torch(path), {name: value.numpy() for name, value in expected.items()})


@pytest.mark.peers
def test_a_file_from_memory_and_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, buffer)
    path = tmp_path / "any name"
    path.write_bytes(buffer.getvalue())
    assert_equal(read_torch(path), {"a": np.array([1.5, -2.0], ml_dtypes.bfloat16)})

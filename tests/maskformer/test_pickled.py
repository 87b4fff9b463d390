"""Pickles of tensors: what others write is read; nothing runs, and no claim is believed."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskformer.checkpoints import pickled
from maskformer.checkpoints.checkpoint import as_tensor
from maskformer.checkpoints.files import stored_tensors
from maskformer.checkpoints.torch_files import pickled_tensors

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "half": torch.arange(5).half(),
    "whole": torch.arange(4),
    "yes": torch.tensor([True, False]),
    "single": torch.tensor(7.0),
    "empty": torch.zeros(0, 3),
}


def pickled_bytes(tree, **options) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file, **options)
    return file.getvalue()


def arrays() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in TENSORS.items()}


def python_2(name: bytes, array: np.ndarray) -> bytes:
    """A pickle as numpy 1 on Python 2 wrote it: texts are bytes."""
    rows, columns = array.shape
    data = array.tobytes()
    return b"".join(
        [
            b"\x80\x02}U" + bytes([len(name)]) + name,
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K" + bytes([rows]) + b"K" + bytes([columns]) + b"\x86",
            b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R",
            b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89U" + bytes([len(data)]) + data + b"tbs.",
        ]
    )


FILES = {
    "torch": pickled_bytes(TENSORS),
    "torch before 1.6": pickled_bytes(TENSORS, _use_new_zipfile_serialization=False),
    "training run": pickled_bytes(
        {"model": TENSORS, "optimizer": {"state": {0: {"step": 3}}}, "epoch": 1}
    ),
    **{f"numpy {p}": pickle.dumps({"model": arrays(), "n": 1}, protocol=p) for p in (2, 3, 4, 5)},
    "numpy 1": pickle.dumps({"model": arrays(), "__author__": "x"}, protocol=2).replace(
        b"numpy._core.", b"numpy.core."
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_torch_and_detectron2_write_is_read(kind, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(FILES[kind])

    read = {name: as_tensor(tensor) for name, tensor in stored_tensors(path).items()}

    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)


def test_arrays_of_python_2_are_read():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    [(name, stored)] = pickled_tensors(memoryview(python_2(b"w", array))).items()

    assert name == "w"
    assert torch.equal(as_tensor(stored), torch.from_numpy(array))


def test_tensors_that_lie_askew_or_share_memory_are_read():
    whole = torch.arange(24.0).reshape(4, 6)
    tree = {
        "turned": whole.T,
        "part": whole[1:3, ::2],
        "learned": torch.nn.Parameter(whole),
        "brain": whole.bfloat16(),
    }
    columns = np.asfortranarray(whole.numpy())

    read = pickled_tensors(memoryview(bytearray(pickled_bytes(tree))))
    by_column = pickled_tensors(memoryview(pickle.dumps({"w": columns}, protocol=4)))

    for name, tensor in tree.items():
        assert torch.equal(as_tensor(read[name]), tensor)
    assert torch.equal(as_tensor(by_column["w"]), whole)


def test_a_module_with_metadata_is_read():
    state = torch.nn.BatchNorm1d(3).state_dict()

    assert pickled_tensors(memoryview(pickled_bytes(state))).keys() == state.keys()


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ran = []


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"w": Calls(os.system, "touch /tmp/ran")}, "would run posix.system"),
        ({"w": Calls(eval, "ran.append(1)")}, "would run (__builtin__|builtins).eval"),
        ({"w": Calls(exec, "ran")}, "would run (__builtin__|builtins).exec"),
        ({"w": Calls(bytearray, 10**12)}, "would run (__builtin__|builtins).bytearray"),
        ({"w": np.array([Calls(exec, "ran")], dtype=object)}, "would run .*exec"),
        ({"w": np.array([None])}, "of numpy's type .*O8"),
        ({"w": np.zeros(2, dtype=">f4")}, "of numpy's type >f4"),
        ({"w": np.zeros(2, dtype=[("a", "f4")])}, "of numpy's type .*V4"),
        ({"w": np.zeros(2, dtype=np.complex64)}, "of numpy's type .*c8"),
        ({"w": {1, 2}}, "a step that no tensor needs|would run .*set"),
        ({"w": TENSORS.keys}, "would run|no tensors|step that no"),
        ([1, 2], "no checkpoint"),
        ({"n": 1}, "no tensors by name"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_is_not_tensors_alone_is_refused(tree, words, protocol, capsys):
    with pytest.raises(ValueError, match=words) as error:
        pickled_tensors(memoryview(pickle.dumps(tree, protocol=protocol)))

    assert "\n" not in str(error.value)
    assert not ran
    assert not capsys.readouterr().out


def test_a_dictionary_that_holds_itself_and_a_name_of_two_lines_do_no_harm():
    with pytest.raises(ValueError, match="no tensors by name"):
        pickled_tensors(memoryview(b"\x80\x02}q\x00U\x05modelh\x00s."))
    with pytest.raises(ValueError, match="would run") as error:
        pickled_tensors(memoryview(b"\x80\x04\x8c\x03a\nb\x8c\x01c\x93)R."))
    assert "\n" not in str(error.value)


def bombs():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in zipfile.ZipFile(io.BytesIO(FILES["torch"])).infolist():
            name = record.filename
            archive.writestr(name, bytes(50_000_000) if name.endswith("data/0") else b"x")
    yield packed.getvalue(), "is packed and would unfold to 50,000,000 bytes"
    claims = bytearray(FILES["torch"])
    place = claims.index(b"PK\x01\x02", claims.index(b"PK\x01\x02") + 4)
    while not claims[place + 46 :].startswith(b"archive/data/0"):
        place = claims.index(b"PK\x01\x02", place + 4)
    claims[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    yield bytes(claims), "claims 2,147,483,648 bytes"
    yield b"\x80\x02" + b"]" * 3_000_000 + b".", "more than 1,000 steps"
    # An unpickler in C allocates what these claim before it reads them.
    yield b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.", "only 4 remain"
    yield b"\x80\x04Nr\xff\xff\xff\xff.", "no checkpoint"
    yield b"\x80\x04Nr\xff\xff\xff\x07.", "no checkpoint"
    # Hashing a nested tuple recurses in C, and takes twice as long with each level of two alike.
    yield b"\x80\x02}()" + b"\x85" * 900 + b"K\x01u.", "keys must be plain"
    yield b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.", "no checkpoint"
    one = pickle.dumps({"w": np.zeros(1, np.float32)}, protocol=4)
    yield one.replace(b"K\x01\x85", b"J\xff\xff\xff\x7f\x85"), "needs 8,589,934,588 bytes"
    wide = pickled_bytes({"w": torch.zeros(1).expand(10**9)})
    yield wide, "needs 4,000,000,000 bytes"
    old = bytearray(FILES["torch before 1.6"])
    place = old.rindex(b".") + 1
    old[place : place + 8] = struct.pack("<Q", 2**40)
    yield bytes(old), "claims"


@pytest.mark.parametrize(("data", "words"), list(bombs()), ids=range(11))
def test_what_a_file_claims_is_not_allocated(data, words, monkeypatch):
    monkeypatch.setattr(pickled, "_MOST_STEPS", 1000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=words):
        pickled_tensors(memoryview(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1e6


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_anywhere_is_refused(kind):
    data = FILES[kind]

    for length in range(0, len(data), max(len(data) // 100, 1)):
        with pytest.raises(ValueError, match=r"\w"):
            pickled_tensors(memoryview(data[:length]))


def test_a_file_that_ends_before_an_empty_storage_is_refused():
    data = pickled_bytes({"empty": torch.zeros(0, 3)}, _use_new_zipfile_serialization=False)

    for missing in range(1, 9):  # of the bytes that say how long it is
        with pytest.raises(ValueError, match="ends before its last storage"):
            pickled_tensors(memoryview(data[:-missing]))


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(FILES)),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
)
def test_a_damaged_file_gives_tensors_or_one_kind_of_error(kind, damage):
    data = bytearray(FILES[kind])
    for place, byte in damage:
        data[int(place * len(data))] = byte

    try:
        read = pickled_tensors(memoryview(data))
    except ValueError:
        return
    for tensor in read.values():
        assert as_tensor(tensor).shape == tensor.shape

"""Files of tensors: what each kind gives, and that a damaged or a hostile one gets a sentence and executes nothing."""

import collections
import hashlib
import io
import os
import pickle
import sys
import types
import zipfile

import flax.serialization
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy

from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.weights import tensors

TORCH = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
STEPS = np.array([7], np.int64)


class Held:
    """A tensor as a torch file has it: numbers, and how a view reads them."""

    def __init__(self, numbers, kind="FloatStorage", *, key="0", offset=0, shape=None, strides=None, num=None):
        self.numbers, self.kind, self.key, self.offset = numbers, kind, key, offset
        self.shape = numbers.shape if shape is None else shape
        self.strides = [stride // numbers.itemsize for stride in numbers.strides] if strides is None else strides
        self.num = numbers.size if num is None else num


@pytest.fixture
def pickled(monkeypatch):
    """Returns value -> bytes of a pickle that names torch's functions, which are not installed here."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "BFloat16Storage"):
        setattr(module, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        setattr(utils, name, type(name, (), {"__module__": "torch._utils"}))
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, tuple) and value[:1] == ("a storage",):
                return value[1]

        def reducer_override(self, value):
            if isinstance(value, Held):
                identity = ("storage", getattr(module, value.kind), value.key, "cpu", value.num)
                place = (("a storage", identity), value.offset, tuple(value.shape), tuple(value.strides))
                return utils._rebuild_tensor_v2, (*place, False, collections.OrderedDict())
            return NotImplemented

    def dumps(value):
        file = io.BytesIO()
        Pickler(file, 2).dump(value)
        return file.getvalue()

    return dumps


def state_dict(**more):
    """Returns two tensors, one of them transposed, as torch keeps them."""
    return collections.OrderedDict(
        weight=Held(np.ascontiguousarray(WEIGHT.T).ravel(), shape=(2, 3), strides=(1, 2)),
        steps=Held(STEPS, "LongStorage", key="1", shape=(), strides=()),
        **more,
    )


def legacy(pickled, held):
    """Returns a file of torch before 1.6."""
    parts = [item for item in held.values() if isinstance(item, Held)]
    start = b"".join(pickled(value) for value in (TORCH, 1001, SYSTEM, held, [part.key for part in parts]))
    return start + b"".join(part.num.to_bytes(8, "little") + part.numbers.tobytes() for part in parts)


def zipped(pickled, held, compression=zipfile.ZIP_STORED):
    """Returns a file of torch since 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(held))
        archive.writestr("net/byteorder", "little")
        for part in held.values():
            if isinstance(part, Held):
                archive.writestr(f"net/data/{part.key}", part.numbers.tobytes())
    return file.getvalue()


def read(tmp_path, content, name="file.pth"):
    (tmp_path / name).write_bytes(content)
    return tensors.read(storage.path(tmp_path / name))


@pytest.mark.parametrize("form", [legacy, zipped])
def test_a_torch_file_gives_its_tensors_through_their_strides(tmp_path, pickled, form):
    found = read(tmp_path, form(pickled, state_dict(epoch=3, name="net")))
    assert list(found) == ["weight", "steps"]
    np.testing.assert_array_equal(found["weight"], WEIGHT)
    np.testing.assert_array_equal(found["steps"], STEPS[0])


@pytest.mark.parametrize("form", [legacy, zipped])
def test_tensors_that_share_a_storage_are_parts_of_it(tmp_path, pickled, form):
    numbers = np.arange(8).astype(jnp.bfloat16)
    whole = Held(numbers, "BFloat16Storage", shape=(2,), strides=(3,), offset=4)
    found = read(tmp_path, form(pickled, {"part": whole}))
    assert found["part"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["part"].astype(np.float32), [4, 7])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickled_dictionary_gives_its_arrays_by_joined_names(tmp_path, protocol):
    block = {"kernel": np.asfortranarray(WEIGHT), "big": WEIGHT.astype(">f8"), "scale": np.float32(2.5)}
    found = read(tmp_path, pickle.dumps({"block": {"conv": block}, "steps": STEPS}, protocol), "weights.pickle")
    assert list(found) == ["block.conv.kernel", "block.conv.big", "block.conv.scale", "steps"]
    for name, value in block.items():
        np.testing.assert_array_equal(found[f"block.conv.{name}"], value)


def test_the_old_names_of_numpys_modules_are_known(tmp_path):
    content = pickle.dumps({"steps": STEPS}, 3).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(read(tmp_path, content)["steps"], STEPS)


def test_safetensors(tmp_path):
    found = read(tmp_path, safetensors.numpy.save({"weight": WEIGHT}), "net.safetensors")
    np.testing.assert_array_equal(found["weight"], WEIGHT)


def test_a_checkpoint_of_flax_gives_its_arrays_by_joined_names(tmp_path, monkeypatch):
    """Also those that it cuts into chunks; a number of Python's is none."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 8)
    block = {"kernel": WEIGHT, "half": WEIGHT.astype(jnp.bfloat16), "none": np.ones((0, 3)), "scale": np.float32(2.5)}
    held = {"params": {"conv": block}, "steps": STEPS[0], "rate": 0.5, "phase": 1j, "empty": {}}
    found = read(tmp_path, flax.serialization.to_bytes(held), "checkpoint_26")
    assert list(found) == ["params.conv.kernel", "params.conv.half", "params.conv.none", "params.conv.scale", "steps"]
    for name, value in block.items():
        np.testing.assert_array_equal(found[f"params.conv.{name}"], value)
    assert found["params.conv.half"].dtype == jnp.bfloat16 and found["steps"] == 7


def test_the_digits_of_a_name_are_checked(tmp_path):
    content = safetensors.numpy.save({"weight": WEIGHT})
    digits = hashlib.sha256(content).hexdigest()[:8]
    assert list(read(tmp_path, content, f"net-{digits}.safetensors")) == ["weight"]
    with pytest.raises(UserError, match="its SHA-256 must begin with 00000000, as its name says, but begins"):
        read(tmp_path, content, "net-00000000.safetensors")


class Command:
    """What a hostile pickle does when it is opened."""

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_nothing_is_executed(tmp_path):
    command = Command()
    command.folder = str(tmp_path / "made")
    with pytest.raises(
        UserError, match=r"it names (posix|nt)\.mkdir, which is not of a tensor: no code of a file is run; save its "
    ):
        read(tmp_path, pickle.dumps({"weight": WEIGHT, "more": command}))
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(command))  # it would have
    assert (tmp_path / "made").exists()


HUGE = 2**62


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({"w": Held(WEIGHT, shape=(10**6, 10**6), strides=(0, 0))}, r"tensor \[1000000, 1000000\] in a storage of 6"),
        ({"w": Held(WEIGHT, shape=(2,), strides=(6,))}, r"a tensor \[2\] in a storage of 6 numbers"),
        ({"w": Held(WEIGHT, offset=HUGE)}, r"a tensor \[2, 3\] in a storage of 6 numbers"),
        ({"w": Held(WEIGHT, offset=-1)}, "without a shape or a storage"),
        ({"w": Held(WEIGHT, shape=(2, 3), strides=(1,))}, "without a shape or a storage"),
        ({"w": Held(WEIGHT, num=HUGE)}, r"storage '0' must have 4,611,686,018,427,387,904 numbers of float32"),
        (Held(WEIGHT), "it is neither a dictionary nor a list"),
        ({("a", "b"): 1}, "a dictionary whose keys are not names"),
        ({"epoch": 3}, "holds no tensors"),
        ({"f": len}, r"it names (__builtin__|builtins)\.len, which is not of a tensor: no code of a file is run; save its "),
    ],
)
@pytest.mark.parametrize("form", [legacy, zipped])
def test_a_torch_file_that_is_not_of_tensors_gets_one_sentence(tmp_path, pickled, form, held, sentence):
    content = form(pickled, held) if isinstance(held, dict) else zipped(lambda _: pickled(held), {})
    with pytest.raises(UserError, match=sentence) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(tmp_path))


def repeated(num):
    """Returns the pickle of a dictionary that is within itself, or reached in 2^num ways."""
    inner = {"w": WEIGHT}
    for _ in range(num):
        inner = {"a": inner, "b": inner}
    if not num:
        inner["again"] = inner
    return pickle.dumps(inner)


class Paired:
    """A dictionary made from pairs whose key is a tuple: nested ones would take for ever to be hashed."""

    def __reduce__(self):
        return collections.OrderedDict, ([((1, 2), None)],)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty; download it again"),
        (b"hello", "of another kind"),
        (b"\n<!DOCTYPE html><html>", "it is a web page; download it again"),
        (b"\x80\x04", "pickle exhausted"),
        (b"\x80\x04\x8e" + b"\xff" * 8, "byte count > sys.maxsize"),
        (b"\x80\x04]\x94\x93.", "IndexError: pop from empty list"),
        (pickle.dumps(Paired()), "a dictionary whose keys are not names"),
        (repeated(0), "one dictionary in two places"),
        (repeated(40), "one dictionary in two places"),
        (pickle.dumps({"w": np.array([{}], object)}), "not a number's"),
        (pickle.dumps(np.zeros(2)), "it is neither a dictionary nor a list"),
        (flax.serialization.to_bytes({"w": WEIGHT})[:-1], "it is cut short; download it again"),
        (flax.serialization.to_bytes({"w": {"__msgpack_chunked_array__": True}}), "KeyError: 'chunks'; it must be a state"),
        (flax.serialization.to_bytes({"w": WEIGHT}).replace(b"float32", b"float64"), "cannot reshape array"),
        (b"\x81\xa1w\xc1", "FormatError"),
        (msgpack.packb({1: 2}), "int is not allowed for map key"),
        (b"PK\x03\x04nothing", "it is cut short; download it again"),
        (safetensors.numpy.save({"w": WEIGHT})[:-1], "it is cut short: it has [0-9]+ of [0-9]+ bytes; download it again"),
        ((2**62).to_bytes(8, "little") + b"{}", "SafetensorError"),
    ],
)
def test_what_is_no_file_of_tensors_gets_one_sentence(tmp_path, content, sentence):
    with pytest.raises(UserError, match=f"file of weights .* cannot be read as tensors: .*({sentence})"):
        read(tmp_path, content)


def test_a_pointer_of_git_lfs_says_what_to_run(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 143020060\n"
    with pytest.raises(UserError, match="is a pointer of Git LFS, 134 bytes that .* get those with: git lfs pull.$"):
        read(tmp_path, pointer)


def test_a_compressed_archive_is_refused(tmp_path, pickled):
    """Torch never compresses, and a small one could be enormous."""
    content = zipped(pickled, {"w": Held(np.zeros(10**5, np.float32))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="it is a compressed archive"):
        read(tmp_path, content)


@pytest.mark.parametrize("form", ["legacy", "zip", "pickle", "safetensors", "flax"])
def test_a_damaged_file_gives_tensors_or_one_sentence(tmp_path, pickled, form):
    """Cut anywhere; or with bytes that are others."""
    make = {
        "legacy": lambda: legacy(pickled, state_dict()),
        "zip": lambda: zipped(pickled, state_dict()),
        "pickle": lambda: pickle.dumps({"block": {"weight": WEIGHT}, "steps": STEPS}),
        "safetensors": lambda: safetensors.numpy.save({"weight": WEIGHT}),
        "flax": lambda: flax.serialization.to_bytes({"block": {"weight": WEIGHT}, "steps": STEPS}),
    }
    whole, random, num_refused = make[form](), np.random.default_rng(0), 0
    damaged = [whole[:cut] for cut in range(0, len(whole), 3)]
    for _ in range(300):
        content = bytearray(whole)
        content[random.integers(len(content))] = random.integers(256)
        damaged.append(bytes(content))
    for content in damaged:
        try:
            read(tmp_path, content)
        except UserError as error:
            num_refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400 + len(str(tmp_path))
    assert num_refused > len(whole) // 3


@pytest.mark.parametrize("first", [b"\x80", b"\x88"])
def test_a_safetensors_file_may_begin_as_a_pickle_or_a_checkpoint_of_flax_does(tmp_path, first):
    """Its first byte is the lowest of the header's length."""
    for length in range(300):
        content = safetensors.numpy.save({"w" * (length + 1): np.ones(2, np.float32)})
        if content.startswith(first):
            break
    [(name, found)] = read(tmp_path, content).items()
    assert content.startswith(first) and len(name) == length + 1
    np.testing.assert_array_equal(found, np.ones(2, np.float32))


def test_lists_are_read_by_number(tmp_path, pickled):
    """As ermongroup/ddim and score_sde keep a network, an optimizer and an EMA; a list of settings may be shared."""
    shared = [1, 2]
    weight = Held(WEIGHT)
    held = {"w": weight, "states": [{"w": weight}, shared, 7], "args": {"a": shared, "b": shared}}
    assert list(read(tmp_path, zipped(pickled, held))) == ["w", "states.0.w"]

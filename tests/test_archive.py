"""Values that were written to a file of arrays and JSON are read as they were, to the bit and to the type."""

import contextlib
import io
import json
import math
import os
import zipfile
from fractions import Fraction

import numpy as np
import pytest

from fastadam import schedules
from fastadam._archive import encode, load, save
from fastadam._files import replacing


def saved_and_loaded(value):
    file = io.BytesIO()
    save(file, value)
    file.seek(0)
    return load(file)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert [type(key) for key in a] == [type(key) for key in b]
        assert list(a) == list(b)
        assert_same(list(a.values()), list(b.values()))
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray | np.generic):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert_same(a.tolist(), b.tolist()) if a.dtype == object else np.testing.assert_array_equal(a, b, strict=True)
    elif isinstance(a, np.random.RandomState):
        np.testing.assert_equal(a.get_state(), b.get_state())
    elif isinstance(a, float):
        assert math.copysign(1, a) == math.copysign(1, b)
        assert a == b or (math.isnan(a) and math.isnan(b))
    else:
        assert a == b


def stream_in_the_middle_of_a_pair():
    stream = np.random.RandomState(4)
    stream.standard_normal(700)
    stream.standard_normal()
    return stream


VALUES = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**5000, -(10**400)],
    "floats": [0.0, -0.0, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan],
    "strings": ["", "ä", "\ud800", "\0", '"', "$array"],
    "lists": [[], [[]], [1, [2.0, "3"]]],
    "tuples": ((), ((),), (1, [2, (3,)])),
    "dicts": {"a": {}, "b": {"c": (1,)}},
    "dicts with other keys": [{1: 2}, {True: 1, None: 2, (1, "a"): 3}, {"$tuple": [1]}, {np.int8(3): 1.0}],
    "arrays": [np.arange(3), np.zeros((0, 2), np.float32), np.array(3.5), np.array(["a", "bc"]), np.array([True])],
    "more arrays": [np.array([math.nan, -0.0]), np.ones((2, 3), order="F")[:, ::2], np.array(["2020"], "M8[D]")],
    "objects": np.array(["a", 1, None, (1, 2), [3]], object),
    "scalars": [np.float32(0.1), np.float64(0.1), np.int8(3), np.True_, np.str_("a"), np.datetime64("2020-01-01")],
    "streams": [np.random.RandomState(3), stream_in_the_middle_of_a_pair()],
    "schedules": [
        schedules.Constant(0.1),
        schedules.MultiStep(0.1, [2, 5]),
        schedules.Sequential([schedules.Warmup(0.1, 3), schedules.Product([schedules.Cosine(1.0, 5)])], [4]),
        schedules.Plateau(0.1, mode="max"),
    ],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_are_the_same_again(value):
    assert_same(saved_and_loaded({"value": value, "again": [value]}), {"value": value, "again": [value]})


def test_the_document_is_json_that_any_program_reads():
    file = io.BytesIO()
    save(file, {"numbers": [math.nan, math.inf, 2**70], "name": "ä"})
    text = zipfile.ZipFile(file).read("content.json").decode("ascii")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["content"]["numbers"] == [{"$float": "nan"}, {"$float": "inf"}, {"$int": hex(2**70)}]


def test_equal_values_have_equal_files():
    files = io.BytesIO(), io.BytesIO()
    for file in files:
        save(file, {"a": np.arange(3), "b": 1})
    assert files[0].getvalue() == files[1].getvalue()


class Number(float):
    pass


@pytest.mark.parametrize(
    "value",
    [
        len, lambda: 0, Number(1), Fraction(1, 2), {1, 2}, b"bytes", 1j, range(3), np.ma.array([1]),
        np.random.default_rng(0), np.random.RandomState(np.random.PCG64(0)), schedules.Function(abs),
        np.array([len], object), np.array([[1]], object), np.array([(1, len)], [("a", int), ("b", object)]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match=r"must be (numbers|an array of numbers|of MT19937)"):
        encode([1, (value,)], "value", {})


# --- files that replace others ----------------------------------------------------------------------------------------


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with replacing(path, sync=True) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_fails_leaves_the_one_before(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with contextlib.suppress(error), replacing(path) as file:
        file.write(b"after")
        raise error
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_that_somebody_has_put_there_is_not_followed(monkeypatch, tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (tmp_path / ".file.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(path) as file:
        file.write(b"after")
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize(("options", "expected"), [({}, 0o640), ({"mode": 0o644}, 0o640), ({"mode": 0o600}, 0o600)])
def test_a_file_has_the_permissions_that_the_umask_leaves(options, expected, tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file", **options) as file:
            file.write(b"after")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected

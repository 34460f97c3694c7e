"""Values in one file of arrays and JSON, which holds no code and runs none when it is read.

The file is a zip archive as `numpy.savez` writes it, without compression: each array is an entry "name.npy", without
pickles, and "content.json" has everything else. There, an object with one key that begins with "$" is a value that JSON
has no type for, as {"$tuple": [1, 2]} or {"$array": "weights"}.
"""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from typing import IO, Any

import numpy as np
from numpy.lib.format import read_array, write_array
from numpy.typing import NDArray

from fastadam.schedules import _KINDS, Plateau, Schedule, get_schedule

Array = NDArray[Any]

VERSION = 1
"""Version of the format: to be raised when a file of the new form cannot be read by the code before."""
_CONTENT = "content.json"
_NAMES_OF_SCHEDULES = {kind: name for name, kind in _KINDS.items()}
_MT19937_WORDS = 624


def save(file: IO[bytes], value: Any) -> None:
    """Write a value to a binary file that is open for writing.

    Arrays are written as they are, without a copy of the whole.

    Parameters
    ----------
    file : binary file
        Where to write.
    value : object
        As `encode` takes it.
    """
    arrays: dict[str, Array] = {}
    content = {"version": VERSION, "content": encode(value, "", arrays)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_CONTENT), json.dumps(content, allow_nan=False))
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                write_array(entry, array, allow_pickle=False)


def load(file: IO[bytes]) -> Any:
    """Read a value from a binary file that `save` has written.

    Parameters
    ----------
    file : binary file
        Where to read.

    Returns
    -------
    object
        The value, equal to the one that was saved and of the same types.

    Raises
    ------
    Exception
        Of any class, if the file is damaged or was not written by `save`: the caller says which file it should be.
    """
    with zipfile.ZipFile(file) as archive:
        content = json.loads(_entry(archive, _CONTENT))
        if content["version"] != VERSION:
            raise ValueError(
                f"it has version {content['version']!r} of the format, and this version of fastadam reads {VERSION}"
            )
        return _decode(content["content"], archive)


def encode(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """Convert a value to one that JSON has, and collect its arrays.

    Parameters
    ----------
    value : object
        None, a bool, number, string, array or NumPy scalar; a `RandomState`; a schedule of `fastadam.schedules`; or a
        list, tuple or dict of such values. Nothing of a class that is derived from one of these.
    name : str
        Prefix of the arrays' names.
    arrays : dict
        Gets the arrays, by their names.

    Returns
    -------
    object
        The value for JSON.

    Raises
    ------
    TypeError
        If the value is, or holds, something else.
    """
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [encode(item, f"{name}.{k}", arrays) for k, item in enumerate(value)]
    if kind is tuple:
        return {"$tuple": encode(list(value), name, arrays)}
    if kind is dict:
        return _encode_dict(value, name, arrays)
    if kind is np.ndarray or isinstance(value, np.generic):
        return _encode_array(value, name, arrays)
    if kind is np.random.RandomState:
        return {"$random_state": encode(_stream_to_dict(value), name, arrays)}
    if kind in _NAMES_OF_SCHEDULES:
        parameters = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"$schedule": encode([_NAMES_OF_SCHEDULES[kind], parameters], name, arrays)}
    raise TypeError(f"{name} must be numbers, strings, arrays or lists of them, got {value!r}")


def _encode_dict(value: dict[Any, Any], name: str, arrays: dict[str, Array]) -> Any:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: encode(item, f"{name}.{key}" if name else key, arrays) for key, item in value.items()}
    return {"$dict": encode([list(item) for item in value.items()], name, arrays)}


def _encode_array(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """Encode an array or a NumPy scalar; of an array of Python objects, each of them."""
    if value.dtype == object and value.ndim == 1:
        return {"$objects": encode(value.tolist(), name, arrays)}
    if value.dtype.hasobject:
        raise TypeError(f"{name} must be an array of numbers or strings, got {value!r}")
    arrays[name] = np.asarray(value)
    return {"$array" if isinstance(value, np.ndarray) else "$scalar": name}


def _stream_to_dict(stream: np.random.RandomState) -> dict[str, Any]:
    state: Any = stream.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise TypeError(f"a RandomState must be of MT19937 to be saved, got one of {state['bit_generator']}")
    key, pos = state["state"]["key"], int(state["state"]["pos"])
    return {"key": key, "pos": pos, "has_gauss": int(state["has_gauss"]), "gauss": float(state["gauss"])}


def _stream_from_dict(state: Any) -> np.random.RandomState:
    """Make the stream again; NumPy does not check the position, and would read beyond the key."""
    key, pos = state["key"], state["pos"]
    if key.shape != (_MT19937_WORDS,) or key.dtype != np.uint32:
        raise ValueError(f"the key of a RandomState must be {_MT19937_WORDS} words of uint32, got {key!r}")
    if type(pos) is not int or not 0 <= pos <= _MT19937_WORDS:
        raise ValueError(f"the position of a RandomState must be in [0, {_MT19937_WORDS}], got {pos!r}")
    stream = np.random.RandomState(0)
    stream.set_state(("MT19937", key, pos, int(state["has_gauss"]), float(state["gauss"])))
    return stream


def _schedule_from_list(spec: Any) -> Schedule | Plateau:
    name, parameters = spec
    return get_schedule(str(name), **parameters)


def _decode(encoded: Any, archive: zipfile.ZipFile) -> Any:
    """Rebuild a value from what `encode` has returned."""
    if isinstance(encoded, list):
        return [_decode(item, archive) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    tag = next(iter(encoded), "")
    if not tag.startswith("$"):
        return {key: _decode(item, archive) for key, item in encoded.items()}
    (inner,) = encoded.values()
    if tag == "$array":
        return _array(archive, inner)
    if tag == "$scalar":
        return _array(archive, inner)[()]
    return _FROM_TAG[tag](_decode(inner, archive))


_FROM_TAG: Mapping[str, Any] = {
    "$int": lambda text: int(text, 16),
    "$float": float,
    "$tuple": tuple,
    "$dict": dict,
    "$objects": lambda values: np.fromiter(values, object, len(values)),
    "$random_state": _stream_from_dict,
    "$schedule": _schedule_from_list,
}


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a whole entry, which also compares its checksum."""
    return archive.read(_stored(archive, name))


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    """Read an array, in the byte order of this machine."""
    with archive.open(_stored(archive, f"{name}.npy")) as entry:
        array: Array = read_array(entry, allow_pickle=False)
        if entry.read(1):
            raise ValueError(f"the array {name!r} has another size than its entry")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Find an entry, which must not be compressed: a few bytes could become many gigabytes."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its entry {name!r} is compressed")
    return info


__all__ = ["VERSION", "encode", "load", "save"]

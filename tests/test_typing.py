from pathlib import Path

import numpy as np

import fastadam
from fastadam._typing import Array


def test_arrays_of_any_dtype_have_one_name_in_the_package():
    assert Array.__origin__ is np.ndarray
    others = [
        source.name
        for source in Path(fastadam.__file__).parent.rglob("*.py")
        if "= NDArray[Any]\n" in source.read_text(encoding="utf-8") and source.name != "_typing.py"
    ]
    assert others == []

"""Atomic words, a clock and hints inside compiled code."""

import ast
from pathlib import Path

import pytest

import fastadam
from fastadam.cpu import team as team


@pytest.mark.parametrize("source", sorted(Path(fastadam.__file__).parent.rglob("*.py")), ids=lambda source: source.stem)
def test_no_intrinsic_takes_stack_where_it_stands(source):
    """Only `cgutils.alloca_once` and its kin may: they do it in the entry block, whatever loop calls the intrinsic."""
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    names = [call.func.attr for call in calls if isinstance(call.func, ast.Attribute)]
    assert not {"alloca"} & set(names)

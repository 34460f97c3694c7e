"""Matrix products: values beside NumPy's, bits that depend on no tile, and columns beyond a layer left alone."""

import math

import numpy as np
import pytest

from fastadam.cpu.jit import JIT_DISABLED, kernel
from fastadam.cpu.matmul import (
    INNER,
    PANEL_BYTES,
    TILE_ROWS,
    VECTOR_BYTES,
    matmul,
    matmul_transposed,
    squared_norm,
    transposed_matmul,
)  # fmt: skip
from fastadam.cpu.target import TARGET
from tests.helpers.naive import assert_same_bits

DTYPES = [np.float32, np.float64]
LANES = VECTOR_BYTES // 4
ROWS = [1, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 2 * TILE_ROWS + 3]
COLUMNS = [1, 2, LANES - 1, LANES, LANES + 1, 2 * LANES, 2 * LANES + 1, 5 * LANES + 3]
SHAPES = [(rows, 5, columns) for rows in ROWS for columns in COLUMNS]
SHAPES += [(3, inner, 7) for inner in (1, INNER - 1, INNER, INNER + 1, 2 * INNER + 1)]


@kernel(cached=False)
def plain(A, B, C, accumulate, panel):
    matmul(A, B, C, accumulate, panel)


@kernel(cached=False)
def transposed_left(A, B, C, accumulate, panel):
    transposed_matmul(A, B, C, accumulate, panel)


@kernel(cached=False)
def transposed_right(A, B, C, accumulate, panel):
    matmul_transposed(A, B, C, panel)


PRODUCTS = {
    plain: lambda A, B: (A, B),
    transposed_left: lambda A, B: (np.ascontiguousarray(A.T), B),
    transposed_right: lambda A, B: (A, np.ascontiguousarray(B.T)),
}
each_product = pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.__name__)


def matrices(rows, inner, columns, dtype):
    rng = np.random.default_rng([rows, inner, columns])
    return rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, columns)).astype(dtype)


def multiplied(product, A, B, accumulate=False, start=0.0):
    C = np.full((len(A), B.shape[1]), start, A.dtype)
    product(*PRODUCTS[product](A, B), C, accumulate, np.empty(PANEL_BYTES // A.itemsize, A.dtype))
    return C


@pytest.mark.parametrize("dtype", DTYPES)
@each_product
def test_products_of_all_sizes_around_tiles_vectors_and_panels(product, dtype):
    for rows, inner, columns in SHAPES:
        A, B = matrices(rows, inner, columns, dtype)
        expected, size = A.astype(float) @ B, np.abs(A.astype(float)) @ np.abs(B)
        error = np.abs(multiplied(product, A, B) - expected)
        assert (error <= inner * np.finfo(dtype).eps * size).all(), (rows, inner, columns)
        if product is not transposed_right:
            error = np.abs(multiplied(product, A, B, True, 3.0) - (expected + 3))
            assert (error <= (inner + 1) * np.finfo(dtype).eps * (size + 3)).all(), (rows, inner, columns)


@pytest.mark.skipif(JIT_DISABLED or not hasattr(math, "fma") or not TARGET.fused, reason="needs both chains")
@each_product
def test_an_element_is_one_chain_of_fused_multiply_adds_in_the_order_of_the_inner_index(product):
    A, B = matrices(TILE_ROWS + 2, INNER + 3, 2 * LANES + 3, np.float64)
    C = multiplied(product, A, B)
    for i, j in ((0, 0), (TILE_ROWS + 1, 2 * LANES + 2)):
        chain = 0.0
        for k in range(A.shape[1]):
            chain = math.fma(A[i, k], B[k, j], chain)
        assert C[i, j] == chain


@pytest.mark.skipif(JIT_DISABLED, reason="NumPy's products have other bits in other sizes")
@pytest.mark.parametrize("dtype", DTYPES)
@each_product
def test_the_bits_of_an_element_do_not_depend_on_the_size_of_the_product(product, dtype):
    A, B = matrices(2 * TILE_ROWS + 3, INNER + 5, 3 * LANES + 1, dtype)
    whole = multiplied(product, A, B)
    for rows, columns in ((slice(0, 2), slice(0, 2)), (slice(TILE_ROWS, None), slice(LANES, 2 * LANES + 3))):
        part = multiplied(product, np.ascontiguousarray(A[rows]), np.ascontiguousarray(B[:, columns]))
        assert_same_bits(part, whole[rows, columns])


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_beyond_the_layer_are_neither_read_nor_written(dtype):
    A, B = matrices(TILE_ROWS + 1, 5, LANES + 3, dtype)
    wide = np.full((len(A), 9), np.nan, dtype)
    wide[:, :5] = A
    C = np.full((len(A), B.shape[1] + 4), 7, dtype)
    plain(wide, B, C, False, np.empty(PANEL_BYTES // A.itemsize, dtype))
    assert_same_bits(np.ascontiguousarray(C[:, : B.shape[1]]), multiplied(plain, A, B))
    assert (C[:, B.shape[1] :] == 7).all()


def test_a_squared_norm_is_of_the_elements_between():
    @kernel(cached=False)
    def norm(a, start, stop):
        return squared_norm(a, start, stop)

    for dtype in DTYPES:
        a = np.arange(100, dtype=dtype)
        for start, stop in ((0, 100), (3, 4), (5, 5), (1, 98)):
            assert norm(a, start, stop) == sum(i * i for i in range(start, stop))

"""Matrix products of the network: small, single-threaded, part of the compiled code, with the same bits everywhere.

Each element of a product is one chain of fused multiply-adds in the order of the inner index. Its bits depend neither
on the tile it falls into, nor on the number of rows, nor on the width of the machine's vectors. Only a processor
without that instruction gives other bits: there the product and the sum are rounded one after the other. No BLAS is
called: nothing is dispatched, packed twice or handed to other threads, which for the products of a small network costs
more than the arithmetic.

The innermost loop is a tile of a few rows by one or two vectors, held in registers. The right matrix is copied panel by
panel into the order in which the tile reads it; for a transposed product, the copy transposes.

Matrices that are as wide as a layer may have longer rows than the layer has units: the rest of a row is neither read
nor written. The other matrices of the product say how many columns count: weights and their gradients have no such gap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing import signature
from numba.extending import intrinsic

from fastadam._typing import Array
from fastadam.cpu.jit import JIT_DISABLED, inlined, inner
from fastadam.cpu.target import TARGET
from fastadam.cpu.views import view

INNER = 256
"""Maximum number of rows of a panel: with two vectors of 64 bytes, it then fills two thirds of a 48 KiB L1 cache."""

VECTOR_BYTES = TARGET.vector_bytes

PANEL_VECTORS = 2
"""Vectors in a row of a wide panel; a narrow one has one."""

TILE_ROWS = 8 if TARGET.many_registers else 6
"""Rows of the largest tile. The sums of 6 rows by two vectors take 12 of 16 registers, and those of 8 rows 16 of 32:
the rest is for the two vectors of the right matrix and the element of the left one."""

FEW_ROWS = 4
"""Rows of the tile for what the largest ones leave over; single rows follow."""

DOT_BYTES = 64
"""Width of the partial sums of an inner product: the same for every target, since the bits depend on it."""

PANEL_BYTES = INNER * PANEL_VECTORS * VECTOR_BYTES
"""Size of the memory for one panel."""


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


class _Mask(NamedTuple):
    """Lanes of a vector to load or store, and whether these are all of them."""

    lanes: ir.Value
    whole: ir.Value


class _VectorCode:
    """Emits vector instructions for arrays of one element type."""

    def __init__(self, context: Any, builder: ir.IRBuilder, dtype: Any, vector_bytes: int = VECTOR_BYTES) -> None:
        self.context, self.builder, self.dtype = context, builder, dtype
        self.element = context.get_value_type(dtype)
        self.bytes = dtype.bitwidth // 8
        self.lanes = vector_bytes // self.bytes
        self.vector = ir.VectorType(self.element, self.lanes)
        self.suffix = f"v{self.lanes}f{dtype.bitwidth}"
        self._i64, self._i32 = ir.IntType(64), ir.IntType(32)

    def data(self, array_type: Any, value: ir.Value, offset: ir.Value) -> ir.Value:
        array = self.context.make_array(array_type)(self.context, self.builder, value)
        return self.builder.gep(array.data, [offset])

    def call_out_of_line(self, name: str, arguments: list[ir.Value], emit: Callable[..., None]) -> None:
        """Call a function whose body is written by `emit(code, *arguments)`, once per module.

        Inlined, each tile would be compiled again for every product.
        """
        name = f"fastadam.{name}.{self.suffix}"
        function = self.builder.module.globals.get(name)
        if function is None:
            function_type = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            function = ir.Function(self.builder.module, function_type, name)
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            builder = ir.IRBuilder(function.append_basic_block())
            emit(_VectorCode(self.context, builder, self.dtype), *function.args)
            builder.ret_void()
        self.builder.call(function, arguments)

    def at(self, pointer: ir.Value, *terms: ir.Value) -> ir.Value:
        index = terms[0]
        for term in terms[1:]:
            index = self.builder.add(index, term)
        return self.builder.gep(pointer, [index])

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.bytes)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.bytes)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Add a · b to c, with a single rounding if the processor has that instruction."""
        if TARGET.fused:
            return _intrinsic(self.builder, f"llvm.fma.{self.suffix}", self.vector, [a, b, c])
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def mask(self, columns: ir.Value, first: int) -> _Mask:
        """Select the lanes of the vector from column `first` on that stand below `columns`."""
        lanes = ir.VectorType(self._i64, self.lanes)
        index = ir.Constant(lanes, [first + lane for lane in range(self.lanes)])
        below = self.builder.icmp_signed("<", index, _splat(self.builder, columns, lanes))
        return _Mask(below, self.builder.icmp_signed("<=", self._i64(first + self.lanes), columns))

    def masked_if(self, mask: _Mask, condition: ir.Value) -> _Mask:
        """Select the lanes of `mask` if the condition holds, else none."""
        lanes = self.builder.select(condition, mask.lanes, ir.Constant(mask.lanes.type, None))
        return _Mask(lanes, self.builder.and_(condition, mask.whole))

    def masked_load(self, pointer: ir.Value, mask: _Mask) -> ir.Value:
        """Load the lanes of the mask; the others are 0, and their memory is not read."""
        return self._load_lanes(pointer, mask.lanes) if TARGET.masked else self.whole_or_masked_load(pointer, mask)

    def whole_or_masked_load(self, pointer: ir.Value, mask: _Mask) -> ir.Value:
        """Do the same with a branch: if nearly all vectors are whole, their masks need not be computed."""
        with self.builder.if_else(mask.whole) as (whole, partial):
            with whole:
                all_lanes, after_all = self.load(pointer), self.builder.block
            with partial:
                some_lanes, after_some = self._load_lanes(pointer, mask.lanes), self.builder.block
        loaded = self.builder.phi(self.vector)
        loaded.add_incoming(all_lanes, after_all)
        loaded.add_incoming(some_lanes, after_some)
        return loaded

    def masked_store(self, value: ir.Value, pointer: ir.Value, mask: _Mask) -> None:
        """Store the lanes of the mask; the memory of the others is not touched."""
        if TARGET.masked:
            self._store_lanes(value, pointer, mask.lanes)
            return
        with self.builder.if_else(mask.whole) as (whole, partial):
            with whole:
                self.store(value, pointer)
            with partial:
                self._store_lanes(value, pointer, mask.lanes)

    def _load_lanes(self, pointer: ir.Value, lanes: ir.Value) -> ir.Value:
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        align, zero = ir.Constant(self._i32, self.bytes), ir.Constant(self.vector, None)
        name = f"llvm.masked.load.{self.suffix}.p0"
        return _intrinsic(self.builder, name, self.vector, [pointer, align, lanes, zero])

    def _store_lanes(self, value: ir.Value, pointer: ir.Value, lanes: ir.Value) -> None:
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        name = f"llvm.masked.store.{self.suffix}.p0"
        _intrinsic(self.builder, name, ir.VoidType(), [value, pointer, ir.Constant(self._i32, self.bytes), lanes])


class Left(NamedTuple):
    """The left matrix of a product, or the transpose of one, so that one compiled function serves both."""

    flat: Array
    """Its elements, as they lie in memory."""
    row: int
    """Elements from one of its rows to the next."""
    inner: int
    """Elements from one of its columns to the next."""


class Panel(NamedTuple):
    """A panel of the right matrix, in the order in which the tile reads it."""

    memory: Array
    inner: int
    """Number of its rows."""
    columns: int
    """Number of its columns; each row is filled up with zeros to one vector or two."""


class _TileOperands(NamedTuple):
    """Arguments of the function of a tile: pointers to elements, and numbers of elements."""

    a: ir.Value
    a_row: ir.Value
    a_inner: ir.Value
    b: ir.Value
    inner: ir.Value
    c: ir.Value
    c_row: ir.Value
    columns: ir.Value
    accumulate: ir.Value


def _emit_tile(rows: int, vectors: int, code: _VectorCode, given: _TileOperands) -> None:
    """Multiply `rows` rows of the left matrix by a panel of `vectors` vectors, added to C or in its place."""
    builder, i64 = code.builder, ir.IntType(64)
    masks = [code.mask(given.columns, v * code.lanes) for v in range(vectors)]
    a_rows = [builder.mul(given.a_row, i64(r)) for r in range(rows)]
    c_rows = [builder.mul(given.c_row, i64(r)) for r in range(rows)]
    places = {(r, v): code.at(given.c, c_rows[r], i64(v * code.lanes)) for r in range(rows) for v in range(vectors)}
    sums = {place: cgutils.alloca_once(builder, code.vector) for place in places}
    with builder.if_else(given.accumulate) as (add, replace):
        with add:
            for (r, v), place in places.items():
                builder.store(code.masked_load(place, masks[v]), sums[r, v])
        with replace:
            for place in places:
                builder.store(ir.Constant(code.vector, None), sums[place])
    with cgutils.for_range(builder, given.inner) as loop:
        row_of_panel = builder.mul(loop.index, i64(vectors * code.lanes))
        right = [code.load(code.at(given.b, row_of_panel, i64(v * code.lanes))) for v in range(vectors)]
        here = builder.mul(loop.index, given.a_inner)
        for r in range(rows):
            left = _splat(builder, builder.load(code.at(given.a, a_rows[r], here)), code.vector)
            for v in range(vectors):
                builder.store(code.multiply_add(left, right[v], builder.load(sums[r, v])), sums[r, v])
    for (r, v), place in places.items():
        code.masked_store(builder.load(sums[r, v]), place, masks[v])


def _tile(rows: int) -> Any:
    """Make the function that multiplies `rows` rows of the left matrix, from element `at` on, by a panel.

    The product is written to C, from element `to` of its memory on, or added there.
    """

    @intrinsic
    def tile(typingctx, left, at, panel, C, to, accumulate):
        def codegen(context, builder, sig, arguments):
            left, at, panel, C, to, accumulate = arguments
            left_flat, a_row, a_inner = cgutils.unpack_tuple(builder, left)
            memory, inner, columns = cgutils.unpack_tuple(builder, panel)
            code = _VectorCode(context, builder, sig.args[3].dtype)
            _, c_row = cgutils.unpack_tuple(builder, context.make_array(sig.args[3])(context, builder, C).shape)
            a, c = code.data(sig.args[0].types[0], left_flat, at), code.data(sig.args[3], C, to)
            b = code.data(sig.args[2].types[0], memory, ir.IntType(64)(0))
            operands = _TileOperands(a, a_row, a_inner, b, inner, c, c_row, columns, accumulate)

            def call(vectors: int) -> None:
                def emit(code: _VectorCode, *given: ir.Value) -> None:
                    _emit_tile(rows, vectors, code, _TileOperands(*given))

                code.call_out_of_line(f"tile.{rows}x{vectors}", list(operands), emit)

            with builder.if_else(builder.icmp_signed(">", columns, ir.IntType(64)(code.lanes))) as (wide, narrow):
                with wide:
                    call(2)
                with narrow:
                    call(1)
            return context.get_dummy_value()

        return signature(types.void, left, types.int64, panel, C, types.int64, types.boolean), codegen

    return tile


_full_tile, _small_tile, _row_tile = _tile(TILE_ROWS), _tile(FEW_ROWS), _tile(1)


@intrinsic
def _copy_rows(typingctx, source, source_at, source_row, columns, target, width, rows):
    """Copy the first `columns` elements of each row, filled up with zeros to the `width` of one or two vectors."""
    given = signature(types.void, source, *(types.int64,) * 3, target, types.int64, types.int64)

    def codegen(context, builder, sig, arguments):
        source, source_at, source_row, columns, target, width, rows = arguments
        code = _VectorCode(context, builder, sig.args[0].dtype)
        i64 = ir.IntType(64)
        read = code.data(sig.args[0], source, source_at)
        write = code.data(sig.args[4], target, ir.Constant(i64, 0))
        masks = [code.mask(columns, v * code.lanes) for v in range(PANEL_VECTORS)]
        two = builder.icmp_signed(">", width, ir.Constant(i64, code.lanes))

        def copy(r: ir.Value, v: int) -> None:
            column = ir.Constant(i64, v * code.lanes)
            values = code.masked_load(code.at(read, builder.mul(r, source_row), column), masks[v])
            code.store(values, code.at(write, builder.mul(r, width), column))

        with cgutils.for_range(builder, rows) as loop:
            copy(loop.index, 0)
            with builder.if_then(two):
                copy(loop.index, 1)
        return context.get_dummy_value()

    return given, codegen


def _emit_transposition(code, read, source_row, rows, columns, write, target_row):
    builder, i32, i64 = code.builder, ir.IntType(32), ir.IntType(64)
    n, mask = code.lanes, code.mask(columns, 0)
    block = []
    for r in range(n):
        valid = code.masked_if(mask, builder.icmp_signed("<", ir.Constant(i64, r), rows))
        block.append(code.masked_load(code.at(read, builder.mul(source_row, ir.Constant(i64, r))), valid))
    step = 1
    while step < n:  # swap the off-diagonal blocks of 1, 2, 4, ... lanes
        low = [lane if lane & step == 0 else n + lane - step for lane in range(n)]
        high = [lane + step if lane & step == 0 else n + lane for lane in range(n)]
        masks = [ir.Constant(ir.VectorType(i32, n), lanes) for lanes in (low, high)]
        for r in range(n):
            if r & step == 0:
                a, b = block[r], block[r + step]
                block[r], block[r + step] = (builder.shuffle_vector(a, b, lanes) for lanes in masks)
        step *= 2
    for r in range(n):
        code.store(block[r], code.at(write, builder.mul(target_row, ir.Constant(i64, r))))


@intrinsic
def _transpose_block(typingctx, source, source_at, source_row, rows, columns, target, target_at, target_row):
    """Copy a square block, one vector wide, transposed; elements beyond `rows` and `columns` are zeros."""
    given = signature(types.void, source, *(types.int64,) * 4, target, types.int64, types.int64)

    def codegen(context, builder, sig, arguments):
        source, source_at, source_row, rows, columns, target, target_at, target_row = arguments
        code = _VectorCode(context, builder, sig.args[0].dtype)
        read, write = code.data(sig.args[0], source, source_at), code.data(sig.args[5], target, target_at)
        passed = [read, source_row, rows, columns, write, target_row]
        code.call_out_of_line("transpose", passed, _emit_transposition)
        return context.get_dummy_value()

    return given, codegen


@intrinsic
def _dot(typingctx, a, a_at, b, b_at, size):
    """Inner product of two runs of elements: a chain of multiply-adds in each lane of `DOT_BYTES`, then a tree."""
    given = signature(a.dtype, a, types.int64, b, types.int64, types.int64)

    def codegen(context, builder, sig, arguments):
        a, a_at, b, b_at, size = arguments
        code = _VectorCode(context, builder, sig.args[0].dtype, vector_bytes=DOT_BYTES)
        left, right = code.data(sig.args[0], a, a_at), code.data(sig.args[2], b, b_at)
        total = cgutils.alloca_once_value(builder, ir.Constant(code.vector, None))
        lanes = ir.Constant(ir.IntType(64), code.lanes)
        with cgutils.for_range_slice(builder, ir.Constant(ir.IntType(64), 0), size, lanes) as (at, _):
            mask = code.mask(builder.sub(size, at), 0)
            x, y = (code.whole_or_masked_load(code.at(side, at), mask) for side in (left, right))
            builder.store(code.multiply_add(x, y, builder.load(total)), total)
        lane_sums, half = builder.load(total), code.lanes // 2
        while half:
            swapped = ir.Constant(
                ir.VectorType(ir.IntType(32), code.lanes), [lane ^ half for lane in range(code.lanes)]
            )
            lane_sums = builder.fadd(lane_sums, builder.shuffle_vector(lane_sums, lane_sums, swapped))
            half //= 2
        return builder.extract_element(lane_sums, ir.Constant(ir.IntType(32), 0))

    return given, codegen


@inner
def _pack_transposed(B, k, inner, j, columns, width, memory):
    """Copy B[j : j + columns, k : k + inner], transposed, each row filled up with zeros to `width`."""
    lanes = VECTOR_BYTES // B.itemsize
    for c in range(0, width, lanes):
        for r in range(0, inner, lanes):
            at = (j + c) * B.shape[1] + k + r
            _transpose_block(B, at, B.shape[1], columns - c, inner - r, memory, r * width + c, width)


@inner
def _multiply_panel(left, at, panel, C, j, accumulate):
    """Multiply all rows of the left matrix, whose first element is at `at`, by a panel, into columns j onwards of C."""
    i, (rows, c_row) = 0, C.shape
    while i < rows:
        here, to = at + i * left.row, i * c_row + j
        if rows - i >= TILE_ROWS:
            _full_tile(left, here, panel, C, to, accumulate)
            i += TILE_ROWS
        elif rows - i >= FEW_ROWS:
            _small_tile(left, here, panel, C, to, accumulate)
            i += FEW_ROWS
        else:
            _row_tile(left, here, panel, C, to, accumulate)
            i += 1


@inner
def squared_norm(a, start, stop):
    """Sum the squares of elements `start:stop`, in a fixed order."""
    return _dot(a, start, a, start, stop - start)


@inner
def _matvec(A, b, C, accumulate):
    """C ← A · b, or C + A · b, for a single column, which would fill only one lane of a tile."""
    for i in range(A.shape[0]):
        product = _dot(A, i * A.shape[1], b, 0, b.shape[0])
        C[i, 0] = C[i, 0] + product if accumulate else product


@inner
def _transposed_matvec(A, b, C, accumulate):
    """C ← Aᵀ · b, or C + Aᵀ · b, for a single column: the sum of the rows of A, each times its element of b."""
    if not accumulate:
        C[:] = 0
    for i in range(A.shape[0]):
        factor = b[i]
        for j in range(C.size):
            C[j] += A[i, j] * factor


@inner
def _width_of(columns, lanes):
    """Elements from one row of a panel of so many columns to the next: one vector, or two."""
    return PANEL_VECTORS * lanes if columns > lanes else lanes


@inner
def _matmul_tiled(left, B, C, accumulate, memory):
    lanes, n_columns = VECTOR_BYTES // B.itemsize, min(B.shape[1], C.shape[1])
    for k in range(0, B.shape[0], INNER):
        inner = min(INNER, B.shape[0] - k)
        for j in range(0, n_columns, PANEL_VECTORS * lanes):
            columns = min(PANEL_VECTORS * lanes, n_columns - j)
            _copy_rows(B, k * B.shape[1] + j, B.shape[1], columns, memory, _width_of(columns, lanes), inner)
            _multiply_panel(left, k * left.inner, Panel(memory, inner, columns), C, j, accumulate or k > 0)


@inlined
def matmul(A, B, C, accumulate, memory):
    """C ← A · B, or C + A · B; all row-major; `memory` has room for a panel."""
    if B.shape[1] == 1:
        _matvec(A, B, C, accumulate)
    else:
        _matmul_tiled(Left(view(A, 0, (A.size,)), A.shape[1], 1), B, C, accumulate, memory)


@inlined
def transposed_matmul(A, B, C, accumulate, memory):
    """C ← Aᵀ · B, or C + Aᵀ · B; all row-major; `memory` has room for a panel."""
    if C.shape[1] == 1:
        _transposed_matvec(A, view(B, 0, (B.size,)), view(C, 0, (C.size,)), accumulate)
    else:
        _matmul_tiled(Left(view(A, 0, (A.size,)), 1, A.shape[1]), B, C, accumulate, memory)


@inlined
def matmul_transposed(A, B, C, memory):
    """C ← A · Bᵀ; all row-major; `memory` has room for a panel."""
    left, lanes = Left(view(A, 0, (A.size,)), A.shape[1], 1), VECTOR_BYTES // B.itemsize
    for k in range(0, B.shape[1], INNER):
        inner = min(INNER, B.shape[1] - k)
        for j in range(0, B.shape[0], PANEL_VECTORS * lanes):
            columns = min(PANEL_VECTORS * lanes, B.shape[0] - j)
            _pack_transposed(B, k, inner, j, columns, _width_of(columns, lanes), memory)
            _multiply_panel(left, k, Panel(memory, inner, columns), C, j, k > 0)


if JIT_DISABLED:

    def squared_norm(a, start, stop):
        """Sum the squares of elements `start:stop`, without compilation."""
        with np.errstate(over="ignore", invalid="ignore"):
            return a[start:stop] @ a[start:stop]

    def matmul(A, B, C, accumulate, memory):
        """C ← A · B, or C + A · B, without compilation."""
        C, A, B = C[:, : B.shape[1]], A[:, : B.shape[0]], B[:, : C.shape[1]]
        C[:] = C + A @ B if accumulate else A @ B

    def transposed_matmul(A, B, C, accumulate, memory):
        """C ← Aᵀ · B, or C + Aᵀ · B, without compilation."""
        matmul(A.T[: C.shape[0]], B, C, accumulate, memory)

    def matmul_transposed(A, B, C, memory):
        """C ← A · Bᵀ, without compilation."""
        C[:, : B.shape[0]] = A[:, : B.shape[1]] @ B.T

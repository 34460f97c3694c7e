"""Matrix products of the network: small, single-threaded, in the compiled code itself, and the same bits everywhere.

Each element of a product is one chain of fused multiply-adds in the order of the inner index, so its bits depend
neither on the tile it fell into, nor on the number of rows, nor on the width of the machine's vectors. Only a processor
without that instruction has other bits: there the product and the sum are rounded one after the other. No BLAS is
called: nothing is dispatched, packed twice or handed to other threads, which for the products of a small network costs
more than the arithmetic.

The innermost loop is a tile of `TILE_ROWS` rows by one or two vectors, held in registers. The right-hand matrix is
copied panel by panel into the order in which the tile reads it; for a transposed one, the copy transposes.

Matrices that are as wide as a layer may have longer rows than the layer has units: what lies beyond is neither read nor
written. How many columns count, the other matrices of the product say: weights and their gradients have no such gap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing import signature
from numba.extending import intrinsic

from fastadam._target import TARGET
from fastadam.jit import JIT_DISABLED, device, inlined, shaped

INNER = 256
"""Inner indices of a panel: a panel of two vectors then fills two thirds of a 48 KiB L1 cache."""


VECTOR_BYTES = TARGET.vector_bytes
TILE_ROWS = 8 if TARGET.many_registers else 6
PANEL_BYTES = INNER * 2 * VECTOR_BYTES
"""Memory for one panel."""


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


class _Mask(NamedTuple):
    """Which lanes of a vector to load or store, and whether these are all of them."""

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
        """Call a function whose body `emit(code, *arguments)` writes, once a module.

        Inlined, each tile would be compiled again wherever a product stands.
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
        """Add a · b to c, with one rounding where the processor can do so."""
        if TARGET.fused:
            return _intrinsic(self.builder, f"llvm.fma.{self.suffix}", self.vector, [a, b, c])
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def mask(self, columns: ir.Value, first: int) -> _Mask:
        """Which lanes of the vector that starts at column `first` stand below `columns`."""
        lanes = ir.VectorType(self._i64, self.lanes)
        index = ir.Constant(lanes, [first + lane for lane in range(self.lanes)])
        below = self.builder.icmp_signed("<", index, _splat(self.builder, columns, lanes))
        return _Mask(below, self.builder.icmp_signed("<=", self._i64(first + self.lanes), columns))

    def masked_if(self, mask: _Mask, condition: ir.Value) -> _Mask:
        """`mask` where the condition holds, else no lane."""
        lanes = self.builder.select(condition, mask.lanes, ir.Constant(mask.lanes.type, None))
        return _Mask(lanes, self.builder.and_(condition, mask.whole))

    def masked_load(self, pointer: ir.Value, mask: _Mask) -> ir.Value:
        """The vector at the pointer, with 0 in the other lanes, which are not read."""
        return self._load_lanes(pointer, mask.lanes) if TARGET.masked else self.whole_or_masked_load(pointer, mask)

    def whole_or_masked_load(self, pointer: ir.Value, mask: _Mask) -> ir.Value:
        """The same, by a branch: where nearly all vectors are whole, their masks need not be computed."""
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


def _tile(rows: int, vectors: int) -> Any:
    """The product of `rows` rows of A with a panel of `vectors` vectors, added to C or in its place."""

    def emit(code, a, a_row, a_inner, b, inner, c, c_row, columns, accumulate):
        builder, i64 = code.builder, ir.IntType(64)
        masks = [code.mask(columns, v * code.lanes) for v in range(vectors)]
        a_rows = [builder.mul(a_row, ir.Constant(i64, r)) for r in range(rows)]
        places = {
            (r, v): code.at(c, builder.mul(c_row, ir.Constant(i64, r)), ir.Constant(i64, v * code.lanes))
            for r in range(rows)
            for v in range(vectors)
        }
        sums = {place: cgutils.alloca_once(builder, code.vector) for place in places}
        with builder.if_else(accumulate) as (add, replace):
            with add:
                for (r, v), place in places.items():
                    builder.store(code.masked_load(place, masks[v]), sums[r, v])
            with replace:
                for place in places:
                    builder.store(ir.Constant(code.vector, None), sums[place])
        with cgutils.for_range(builder, inner) as loop:
            row_of_panel = builder.mul(loop.index, ir.Constant(i64, vectors * code.lanes))
            right = [code.load(code.at(b, row_of_panel, ir.Constant(i64, v * code.lanes))) for v in range(vectors)]
            here = builder.mul(loop.index, a_inner)
            for r in range(rows):
                left = _splat(builder, builder.load(code.at(a, a_rows[r], here)), code.vector)
                for v in range(vectors):
                    builder.store(code.multiply_add(left, right[v], builder.load(sums[r, v])), sums[r, v])
        for (r, v), place in places.items():
            code.masked_store(builder.load(sums[r, v]), place, masks[v])

    @intrinsic
    def tile(typingctx, A, a_at, a_row, a_inner, panel, inner, C, c_at, c_row, columns, accumulate):
        integers = (types.int64,) * 3
        given = signature(types.void, A, *integers, panel, types.int64, C, *integers, types.boolean)

        def codegen(context, builder, sig, arguments):
            a_array, a_at, a_row, a_inner, panel, inner, c_array, c_at, c_row, columns, accumulate = arguments
            code = _VectorCode(context, builder, sig.args[0].dtype)
            a = code.data(sig.args[0], a_array, a_at)
            b = code.data(sig.args[4], panel, ir.Constant(ir.IntType(64), 0))
            c = code.data(sig.args[6], c_array, c_at)
            passed = [a, a_row, a_inner, b, inner, c, c_row, columns, accumulate]
            code.call_out_of_line(f"tile.{rows}x{vectors}", passed, emit)
            return context.get_dummy_value()

        return given, codegen

    return tile


@intrinsic
def _copy_rows(typingctx, source, source_at, source_row, columns, target, width, rows):
    """Copy the first `columns` elements of each row, of one or two vectors, filled up with zeros to `width`."""
    given = signature(types.void, source, *(types.int64,) * 3, target, types.int64, types.int64)

    def codegen(context, builder, sig, arguments):
        source, source_at, source_row, columns, target, width, rows = arguments
        code = _VectorCode(context, builder, sig.args[0].dtype)
        i64 = ir.IntType(64)
        read = code.data(sig.args[0], source, source_at)
        write = code.data(sig.args[4], target, ir.Constant(i64, 0))
        masks = [code.mask(columns, v * code.lanes) for v in range(2)]
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
    """Copy a square block, one vector wide, transposed; what lies beyond `rows` and `columns` is read as zero."""
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
    """The inner product of two runs of elements: a chain of multiply-adds in each lane of 64 bytes, then a tree."""
    given = signature(a.dtype, a, types.int64, b, types.int64, types.int64)

    def codegen(context, builder, sig, arguments):
        a, a_at, b, b_at, size = arguments
        code = _VectorCode(context, builder, sig.args[0].dtype, vector_bytes=64)
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


_tiles = {(rows, vectors): _tile(rows, vectors) for rows in (TILE_ROWS, 4, 1) for vectors in (1, 2)}
_full_2, _four_2, _one_2 = (_tiles[rows, 2] for rows in (TILE_ROWS, 4, 1))
_full_1, _four_1, _one_1 = (_tiles[rows, 1] for rows in (TILE_ROWS, 4, 1))


@device
def _pack_transposed(B, k, inner, j, columns, width, panel):
    """Copy B[j : j + columns, k : k + inner] to the panel, transposed, each row filled up with zeros to `width`."""
    lanes = VECTOR_BYTES // B.itemsize
    for c in range(0, width, lanes):
        for r in range(0, inner, lanes):
            at = (j + c) * B.shape[1] + k + r
            _transpose_block(B, at, B.shape[1], columns - c, inner - r, panel, r * width + c, width)


@device
def _multiply_panel(a, at, a_row, a_inner, inner, panel, C, j, columns, wide, accumulate):
    """Multiply all rows of a matrix with the panel, into columns j onwards of C.

    The matrix lies in the flat `a` from `at` on, its rows `a_row` elements apart, its columns `a_inner`: so that
    matrices and transposed ones are served by the same compiled function.
    """
    i, rows, c_row = 0, C.shape[0], C.shape[1]
    while i < rows:
        here, c = at + i * a_row, i * c_row + j
        left = rows - i
        if left >= TILE_ROWS:
            if wide:
                _full_2(a, here, a_row, a_inner, panel, inner, C, c, c_row, columns, accumulate)
            else:
                _full_1(a, here, a_row, a_inner, panel, inner, C, c, c_row, columns, accumulate)
            i += TILE_ROWS
        elif left >= 4:
            if wide:
                _four_2(a, here, a_row, a_inner, panel, inner, C, c, c_row, columns, accumulate)
            else:
                _four_1(a, here, a_row, a_inner, panel, inner, C, c, c_row, columns, accumulate)
            i += 4
        else:
            if wide:
                _one_2(a, here, a_row, a_inner, panel, inner, C, c, c_row, columns, accumulate)
            else:
                _one_1(a, here, a_row, a_inner, panel, inner, C, c, c_row, columns, accumulate)
            i += 1


@device
def squared_norm(a, start, stop):
    """The sum of the squares of elements `start:stop`, in a fixed order."""
    return _dot(a, start, a, start, stop - start)


@device
def _matvec(A, b, C, accumulate):
    """C ← A · b, or C + A · b, for a single column, which would fill but one lane of a tile."""
    for i in range(A.shape[0]):
        product = _dot(A, i * A.shape[1], b, 0, b.shape[0])
        C[i, 0] = C[i, 0] + product if accumulate else product


@device
def _transposed_matvec(A, b, c, accumulate):
    """C ← Aᵀ · b, or c + Aᵀ · b, for a single column: the rows of A, each times its element of b, summed up."""
    if not accumulate:
        c[:] = 0
    for i in range(A.shape[0]):
        factor = b[i]
        for j in range(c.size):
            c[j] += A[i, j] * factor


@device
def _matmul_tiled(a, a_row, a_inner, B, C, accumulate, panel):
    lanes, n_columns = VECTOR_BYTES // B.itemsize, min(B.shape[1], C.shape[1])
    for k in range(0, B.shape[0], INNER):
        inner = min(INNER, B.shape[0] - k)
        for j in range(0, n_columns, 2 * lanes):
            columns = min(2 * lanes, n_columns - j)
            wide = columns > lanes
            width = 2 * lanes if wide else lanes
            _copy_rows(B, k * B.shape[1] + j, B.shape[1], columns, panel, width, inner)
            _multiply_panel(a, k * a_inner, a_row, a_inner, inner, panel, C, j, columns, wide, accumulate or k > 0)


@inlined
def matmul(A, B, C, accumulate, panel):
    """C ← A · B, or C + A · B; all row-major; `panel` is working memory."""
    if B.shape[1] == 1:
        _matvec(A, B, C, accumulate)
    else:
        _matmul_tiled(shaped(A, 0, (A.size,)), A.shape[1], 1, B, C, accumulate, panel)


@inlined
def transposed_matmul(A, B, C, accumulate, panel):
    """C ← Aᵀ · B, or C + Aᵀ · B; all row-major; `panel` is working memory."""
    if C.shape[1] == 1:
        _transposed_matvec(A, shaped(B, 0, (B.size,)), shaped(C, 0, (C.size,)), accumulate)
    else:
        _matmul_tiled(shaped(A, 0, (A.size,)), 1, A.shape[1], B, C, accumulate, panel)


@inlined
def matmul_transposed(A, B, C, panel):
    """C ← A · Bᵀ; all row-major; `panel` is working memory."""
    a, lanes = shaped(A, 0, (A.size,)), VECTOR_BYTES // B.itemsize
    for k in range(0, B.shape[1], INNER):
        inner = min(INNER, B.shape[1] - k)
        for j in range(0, B.shape[0], 2 * lanes):
            columns = min(2 * lanes, B.shape[0] - j)
            wide = columns > lanes
            _pack_transposed(B, k, inner, j, columns, 2 * lanes if wide else lanes, panel)
            _multiply_panel(a, k, A.shape[1], 1, inner, panel, C, j, columns, wide, k > 0)


if JIT_DISABLED:

    def squared_norm(a, start, stop):
        """The sum of the squares of elements `start:stop`, where nothing is compiled."""
        with np.errstate(over="ignore", invalid="ignore"):
            return a[start:stop] @ a[start:stop]

    def matmul(A, B, C, accumulate, panel):
        """C ← A · B, or C + A · B, where nothing is compiled."""
        C, A, B = C[:, : B.shape[1]], A[:, : B.shape[0]], B[:, : C.shape[1]]
        C[:] = C + A @ B if accumulate else A @ B

    def transposed_matmul(A, B, C, accumulate, panel):
        """C ← Aᵀ · B, or C + Aᵀ · B, where nothing is compiled."""
        matmul(A.T[: C.shape[0]], B, C, accumulate, panel)

    def matmul_transposed(A, B, C, panel):
        """C ← A · Bᵀ, where nothing is compiled."""
        C[:, : B.shape[0]] = A[:, : B.shape[1]] @ B.T

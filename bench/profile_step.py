"""Where a training step's time goes: a lane's parts, each in a loop of its own over the function that training runs.

Run it by `python -m bench.profile_step [case]`; the cases are those of `bench_mlp.py`. Prints a table in Markdown. All
is float32, and of one thread.

A part in a loop finds its data in the nearest cache, where a step finds some of it farther away. What that costs shows
in the last row, a lane in one go.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from bench.bench_mlp import CASES, Case, make_data
from fastadam import network, rules
from fastadam.activations import backward_kernel, forward_kernel
from fastadam.buffers import FlatBuffer
from fastadam.cpu import EXTRA, Variant
from fastadam.engine import UPDATE, Engine, Job, Update, lanes_of, pass_task, worthwhile_threads
from fastadam.gang import open_phase
from fastadam.gemm import VECTOR_BYTES, _VectorCode, matmul, matmul_transposed, transposed_matmul
from fastadam.losses import loss_kernel
from fastadam.optimizers import Adam

Array = NDArray[Any]
Loop = Callable[[int], object]

SECONDS = 0.02
ROUNDS = 7
CHAINS = 12  # enough for two units of four cycles each, and with their factor no more than 16 registers

# As the kernels of the package, but in no cache on disk: that one would not see an edit of this file.
compiled = numba.njit(error_model="numpy", nogil=True)

relu, relu_backward, identity = forward_kernel("relu"), backward_kernel("relu"), forward_kernel("identity")
squared_error = loss_kernel("squared_error")


# --- the loops: each turn does over again what the one before did, on data of which the compiler knows nothing --------


@compiled
def gather(X, rows, out, calls):
    for _ in range(calls):
        network.gather_rows(X, rows, out)


@compiled
def multiply_forward(A, W, Z, panel, calls):
    for _ in range(calls):
        matmul(A, W, Z, False, panel)


@compiled
def activate(Z, b, nothing_kept, calls):
    for _ in range(calls):
        relu(Z, b, nothing_kept)


@compiled
def add_bias(Z, b, nothing_kept, calls):
    for _ in range(calls):
        identity(Z, b, nothing_kept)


@compiled
def find_error(samples, rows, Z, scale, calls):
    for _ in range(calls):
        squared_error(Z, samples.y, samples.weight, rows, scale, 0.0)


@compiled
def find_weight_gradient(A, D, G, panel, calls):
    for _ in range(calls):
        transposed_matmul(A, D, G, False, panel)


@compiled
def find_bias_gradient(D, g, calls):
    for _ in range(calls):
        network.sum_rows(D, g, False)


@compiled
def multiply_back(D, W, D_before, panel, calls):
    for _ in range(calls):
        matmul_transposed(D, W, D_before, panel)


@compiled
def derive(D, A, calls):
    for _ in range(calls):
        relu_backward(D, A)


@compiled
def run_block(job, rows, scale, calls):
    for _ in range(calls):
        network.gradient(
            job.layout,
            job.loss,
            0.0,
            network.NO_DROPOUT,
            job.p,
            job.samples,
            rows,
            scale,
            job.work[0],
            job.panel[0],
            job.g[0, 0],
        )


@compiled
def update(job, threads, control, calls):
    phase = open_phase(control, UPDATE, threads, 0, job.batch_size)
    for _ in range(calls):
        pass_task(job, 0, threads, control, phase)


@intrinsic
def _multiply_and_add(typingctx, values, times):
    """Run independent chains of multiply-adds in registers, which keep every unit of the core busy."""

    def codegen(context, builder, signature, arguments):
        code = _VectorCode(context, builder, signature.args[0].dtype)
        places = [
            code.data(signature.args[0], arguments[0], ir.Constant(ir.IntType(64), chain * code.lanes))
            for chain in range(CHAINS)
        ]
        factor = code.load(places[0])
        sums = [cgutils.alloca_once_value(builder, code.load(place)) for place in places]
        with cgutils.for_range(builder, arguments[1]):
            for running in sums:
                builder.store(code.multiply_add(builder.load(running), factor, factor), running)
        for place, running in zip(places, sums, strict=True):
            code.store(builder.load(running), place)
        return context.get_dummy_value()

    return types.void(values, types.int64), codegen


@compiled
def multiply_and_add(values, times):
    _multiply_and_add(values, times)


# --- what they run on ---------------------------------------------------------------------------------------------


class Part(NamedTuple):
    name: str
    loops: list[Loop]
    operations: int = 0
    """Floating-point operations, of a matrix product."""


class Block(NamedTuple):
    """Rows that go through the network together, with views of a job's working memory as the passes cut it."""

    rows: Array
    activations: list[Array]
    deltas: list[Array]
    """Those of the output take the place of its activations."""
    weights: list[Array]
    biases: list[Array]
    weight_gradients: list[Array]
    bias_gradients: list[Array]


def engine_of(case: Case) -> Engine:
    """An engine that has made one step, with all lanes on one thread."""
    X, y, *_ = make_data(case)
    params = FlatBuffer.zeros(network.shapes_of([case.features, *case.hidden, 1]), np.float32)
    rng = np.random.default_rng(0)
    for array in params.values():
        array[:] = rng.standard_normal(array.shape) / np.sqrt(len(array))
    optimizer, samples = Adam(params, epsilon_hat=True), network.as_samples(X, np.float32, y[:, None])
    layout = network.layout_of(params, ["relu"] * len(case.hidden), training=True)
    group = optimizer._table[EXTRA + 1]
    adam = Update(Variant(rules.ADAM_HAT, "coupled"), optimizer._rows_at, group)
    engine = Engine(params, layout, samples, "squared_error", adam, case.batch, case.batch, 1, alpha=1e-4)
    engine.optimizer = optimizer  # whose state lies where the engine writes
    engine.epoch(rng.permutation(case.n)[: case.batch], 0, group)
    return engine


def block_of(job: Job) -> Block:
    """The first rows of a batch: a lane, or as much of it as goes through the network at a time."""
    lanes = lanes_of(job.batch_size, job.p.size)
    rows = job.order[: min(job.batch_size // lanes, network.BLOCK_ROWS)]
    parameters, gradients = parameters_of(job.layout, job.p), parameters_of(job.layout, job.g[0, 0])
    return Block(rows, *memory_of(job.layout, job.work[0], rows.size), *parameters, *gradients)


def memory_of(layout: network.Layout, work: Array, n: int) -> tuple[list[Array], list[Array]]:
    """Views of the activations of n rows, and of the deltas: behind them, in two areas by turns."""
    sizes = n * layout.columns
    ends = np.cumsum(sizes)
    activations = [work[end - size : end].reshape(n, -1) for end, size in zip(ends, sizes, strict=True)]
    starts = [ends[-1] + k % 2 * n * layout.widest for k in range(sizes.size)]
    deltas = [work[start : start + size].reshape(n, -1) for start, size in zip(starts, sizes, strict=True)]
    return activations, [*deltas[1:-1], activations[-1]]


def parameters_of(layout: network.Layout, flat: Array) -> tuple[list[Array], list[Array]]:
    """Views of the weights and of the biases."""
    shapes = list(pairwise(layout.units))
    weights = [flat[at : at + m * n].reshape(m, n) for at, (m, n) in zip(layout.weights, shapes, strict=True)]
    return weights, [flat[at : at + n] for at, (_, n) in zip(layout.biases, shapes, strict=True)]


def parts_of(job: Job, block: Block) -> list[Part]:
    """What a lane does, in the order in which it does it; passes over elements are one part for all layers."""
    units, panel = job.layout.units, job.panel[0]
    rows, A, D, W, b, G, g = block
    layers = range(len(W))
    operations = [2 * rows.size * W[k].size for k in layers]
    names = [f"{m} to {n}" for m, n in pairwise(units)]
    passes, none = [activate] * (len(W) - 1) + [add_bias], np.empty((0, 1), np.float32)
    return [
        Part(f"gather {rows.size} rows", [partial(gather, job.samples.X, rows, A[0])]),
        *(
            Part(f"forward, {names[k]}", [partial(multiply_forward, A[k], W[k], A[k + 1], panel)], operations[k])
            for k in layers
        ),
        Part("biases and activation", [partial(passes[k], A[k + 1], b[k], none) for k in layers]),
        Part("error", [partial(find_error, job.samples, rows, A[-1], float(job.batch_size))]),
        *(
            Part(
                f"weight gradient, {names[k]}", [partial(find_weight_gradient, A[k], D[k], G[k], panel)], operations[k]
            )
            for k in reversed(layers)
        ),
        Part("bias gradients", [partial(find_bias_gradient, D[k], g[k]) for k in layers]),
        *(
            Part(f"deltas, {names[k]}", [partial(multiply_back, D[k], W[k], D[k - 1], panel)], operations[k])
            for k in reversed(layers[1:])
        ),
        Part("derivatives", [partial(derive, D[k - 1], A[k]) for k in layers[1:]]),
    ]


# --- how long they take -------------------------------------------------------------------------------------------


def best_seconds(loop: Loop, prepare: Callable[[], object]) -> float:
    """Seconds of a call inside the loop, in the best round. Before each one, everything is put as a step finds it."""
    prepare()
    loop(1)  # compiles
    calls = max(1, int(SECONDS / seconds_of(loop, 1)))
    times = []
    for _ in range(ROUNDS):
        prepare()
        times.append(seconds_of(loop, calls) / calls)
    return min(times)


def seconds_of(loop: Loop, calls: int) -> float:
    start = time.perf_counter()
    loop(calls)
    return time.perf_counter() - start


def peak_rate() -> float:
    """Floating-point operations a second that one core can do at most: multiply-adds of the widest vectors."""
    values = np.full(CHAINS * VECTOR_BYTES // 4, 0.5, np.float32)
    return 2 * values.size / best_seconds(lambda calls: multiply_and_add(values, calls), lambda: None)


def measure_parts(job: Job, control: Array, block: Block, threads: int) -> tuple[list[tuple[Part, float]], float]:
    """Seconds of each part, the update last; and of the block in one go."""
    whole = partial(run_block, job, block.rows, float(job.batch_size))
    refill = partial(whole, 1)
    times = [(part, sum(best_seconds(loop, refill) for loop in part.loops)) for part in parts_of(job, block)]
    in_one_go = best_seconds(whole, refill)
    name = "update" if threads == 1 else f"update, 1/{threads} of it"
    times.append((Part(name, []), best_seconds(partial(update, job, threads, control), refill)))
    return times, in_one_go


def print_profile(name: str) -> None:
    case, peak_before = CASES[name], peak_rate()
    engine = engine_of(case)
    job, control = engine._job, engine._gang.control
    block, threads = block_of(job), min(lanes_of(case.batch, job.p.size), worthwhile_threads(job.layout, case.batch))
    times, in_one_go = measure_parts(job, control, block, threads)
    print(f"{name}: {block.rows.size} of the {case.batch} rows of a batch, on one core\n")
    print_table(times, in_one_go, max(peak_before, peak_rate()))


def print_table(times: list[tuple[Part, float]], in_one_go: float, peak: float) -> None:
    total, operations = sum(seconds for _, seconds in times), sum(part.operations for part, _ in times)
    print("| part | µs | % | at least, µs |\n| --- | ---: | ---: | ---: |")
    for part, seconds in times:
        print_row(part.name, seconds, total, part.operations / peak)
    print_row("sum", total, total, operations / peak)
    print_row("in one go, without the update", in_one_go, total, operations / peak)
    print(
        f"\nAt least: the {operations / 1e6:,.2f} million operations of the products at {peak / 1e9:.0f} GFLOP/s, "
        "which the core reaches in registers."
    )


def print_row(name: str, seconds: float, total: float, limit: float) -> None:
    at_least = f"{limit * 1e6:,.2f}" if limit else ""
    print(f"| {name} | {seconds * 1e6:,.2f} | {100 * seconds / total:.0f} | {at_least} |")


if __name__ == "__main__":
    print_profile(sys.argv[1] if len(sys.argv) > 1 else "seed-b200")

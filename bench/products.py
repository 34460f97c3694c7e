"""Matrix products of small networks in GFLOP/s: fastadam and NumPy's BLAS, on one thread.

Run `python bench/products.py [float32 | float64]`, which prints a Markdown table. The two are measured in turns.
"""

import sys
import time

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from fastadam.cpu.matmul import matmul, matmul_transposed, transposed_matmul
from fastadam.cpu.network import panel_size

SHAPES = [(32, 20, 64), (32, 64, 64), (100, 10, 64), (100, 64, 64), (200, 64, 64), (128, 256, 256), (256, 1024, 1024)]
SECONDS = 0.02

# Like the kernels of the package, but without the disk cache, which would not notice an edit of this file.
compiled = numba.njit(error_model="numpy", nogil=True)


@compiled
def forward(A, W, C, panel, calls):
    for _ in range(calls):
        matmul(A, W, C, False, panel)


@compiled
def weights(A, D, C, panel, calls):
    for _ in range(calls):
        transposed_matmul(A, D, C, False, panel)


@compiled
def deltas(D, W, C, panel, calls):
    for _ in range(calls):
        matmul_transposed(D, W, C, panel)


def best_seconds(work, calls):
    times = []
    for _ in range(7):
        start = time.perf_counter()
        work(calls)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def blas(left, right, out):
    def work(calls):
        for _ in range(calls):
            np.dot(left, right, out=out)

    return work


def row(rows, fan_in, fan_out, dtype):
    rng = np.random.default_rng(0)
    A, W, D = (rng.standard_normal(s).astype(dtype) for s in ((rows, fan_in), (fan_in, fan_out), (rows, fan_out)))
    panel = np.empty(panel_size(np.dtype(dtype)), dtype)
    flops = 2 * rows * fan_in * fan_out
    calls = max(1, int(SECONDS * 1e11 / flops))
    cells = []
    products = ((forward, A, W, A, W), (weights, A, D, A.T, D), (deltas, D, W, D, W.T))
    for ours, left, right, left_of_dot, right_of_dot in products:
        out = np.empty((left_of_dot.shape[0], right_of_dot.shape[1]), dtype)
        ours(left, right, out, panel, 1)
        own = best_seconds(lambda calls, f=ours, a=left, b=right, c=out: f(a, b, c, panel, calls), calls)
        cells.append(
            f"{flops / own / 1e9:.0f} / {flops / best_seconds(blas(left_of_dot, right_of_dot, out), calls) / 1e9:.0f}"
        )
    return f"| {rows} x {fan_in} x {fan_out} | " + " | ".join(cells) + " |"


def main():
    dtype = sys.argv[1] if len(sys.argv) > 1 else "float32"
    print("| rows x fan-in x fan-out | A · W | A^T · Δ | Δ · W^T |\n| --- | --- | --- | --- |")
    with threadpool_limits(1):
        for shape in SHAPES:
            print(row(*shape, dtype), flush=True)


if __name__ == "__main__":
    main()

"""A step of lazy Adam, and how many times as long its peers take: NumPy, PyTorch's SparseAdam, and dense Adam.

Run it by `python -m bench.rows_step`. Prints a table in Markdown; two take turns at a time. Without PyTorch its column
is empty.
"""

import numpy as np

import fastadam
from bench.bench_rows import FREQUENCIES, numpy_step, our_step, table_and_batches, torch_step
from bench.common import ratio, seconds

CASES = [(100_000, k, frequencies) for k in (16, 256, 4096) for frequencies in FREQUENCIES]
CASES += [(10_000, 4096, "zipf"), (1_000_000, 4096, "zipf")]


def dense_step(table, batches):
    """Dense Adam over the whole table, with the gradients already in place."""
    optimizer = fastadam.Adam(table.copy(), epsilon_hat=True)
    grads = np.zeros_like(table)
    for rows, g in batches:
        np.add.at(grads, rows, g)
    return lambda: optimizer.step(grads)


def times_as_long(make_peer, step, case):
    try:
        peer = make_peer(*case)
    except ImportError:
        return "-"
    return f"{1 / ratio(step, peer, rounds=7):.1f}"


def row(n_rows, k, frequencies):
    case = table_and_batches(k, frequencies, n_rows)
    step = our_step(*case)
    distinct = int(np.median([np.unique(rows).size for rows, _ in case[1]]))
    peers = (numpy_step, torch_step, dense_step, lambda *case: our_step(*case, catch_up=True))
    cells = [n_rows, k, frequencies, distinct, f"{seconds(step) * 1e6:.1f}"]
    cells += [times_as_long(peer, step, case) for peer in peers]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    print("| rows | k | frequencies | distinct | µs a step | NumPy | SparseAdam | dense Adam | with catch_up |")
    print("| --- " * 9 + "|")
    for case in CASES:
        print(row(*case), flush=True)


if __name__ == "__main__":
    main()

"""A step of lazy Adam, and the relative times of NumPy, PyTorch's SparseAdam, and dense Adam.

Run `python -m bench.rows_step`, which prints a Markdown table. Two implementations are measured in turns at a time. The
column of PyTorch is empty if it is not installed.
"""

import numpy as np

import fastadam
from bench.bench_rows import FREQUENCIES, numpy_step, our_step, table_and_batches, torch_step
from bench.common import ratio, seconds

CASES = [(100_000, k, frequencies) for k in (16, 256, 4096) for frequencies in FREQUENCIES]
CASES += [(10_000, 4096, "zipf"), (1_000_000, 4096, "zipf")]


def dense_step(table, batches):
    """Return a step of dense Adam on the whole table, with dense gradients."""
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
    print("| rows | k | frequencies | distinct | µs per step | NumPy | SparseAdam | dense Adam | with catch_up |")
    print("| --- " * 9 + "|")
    for case in CASES:
        print(row(*case), flush=True)


if __name__ == "__main__":
    main()

"""Sums over the threads of a block, in an order that depends on nothing but the number of threads."""

from fastadam.cuda.jit import THREADS, cuda, device

SHARED = 2 * THREADS
"""Elements of shared memory in which a block makes two sums at once: two per thread."""


@device
def sum_shared(shared, thread):
    """Sum both halves of the shared memory of a block, each into its first element."""
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            shared[thread] += shared[thread + half]
            shared[THREADS + thread] += shared[THREADS + thread + half]
        half //= 2
    cuda.syncthreads()

"""CUDA: the rules of `fastadam.formulas.rules` compiled for NVIDIA GPUs, and the optimizers on arrays that lie there.

Needs the extra `cuda` (`pip install 'fastadam[cuda]'`); `import fastadam` alone never loads it. The optimizers load it
by themselves when they are given arrays on a device. `fastadam.cuda.kernels` has the rules for your own `@cuda.jit`
kernels.

Reads from the inside out: `jit` has the compiler and access to memory by address; `storage` the formats of fewer bytes;
`chunk` what a thread does with its part of the parameters; `step` and `codes` the kernels; `launch` their memory and
launches; `arrays` what is accepted as an array on a device; `stepper` makes the optimizers' steps there. `layers` and
`network` train the estimators.
"""

from importlib.util import find_spec


def is_available() -> bool:
    """Whether there is a CUDA device, its driver, and the extra `cuda`.

    Examples
    --------
    >>> from fastadam.cuda import is_available
    >>> is_available() in (True, False)
    True
    """
    if find_spec("numba_cuda") is None or find_spec("cupy") is None:
        return False
    try:
        from fastadam.cuda.jit import cuda
    except ImportError:
        return False
    return bool(cuda.is_available())

"""CUDA: the formulas compiled for NVIDIA GPUs, steps of optimizers whose arrays lie there, and fits of the estimators.

It needs the extra `cuda` (`pip install 'fastadam[cuda]'`), which `import fastadam` does not load. The optimizers load
it when they are given arrays on a device. `fastadam.cuda.kernels` has the rules for your own `@cuda.jit` kernels.

Modules that have a twin in `fastadam.cpu` have its name. Read from the inside out: `jit` is the compiler, and `views`
the access to memory by address; `storage` has numbers in fewer bytes; `segments` says where the parameters lie;
`element`, `chunk`, `gradients`, `step` and `minifloat` are the kernels of a step; `allocation`, `state` and `launch`
their memory and launches; `arrays` checks the arrays of a user, and `stepper` makes the steps of an optimizer.
`layers`, `losses`, `dropout`, `engine` and `network` train the estimators, and predict.
"""

from importlib.util import find_spec


def is_available() -> bool:
    """Tell whether there is a CUDA device, its driver, and the extra `cuda`.

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

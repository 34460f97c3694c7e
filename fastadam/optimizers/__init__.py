"""The optimizers: one class an algorithm, with PyTorch's names, defaults and semantics.

Each names its hyper-parameters and chooses a rule of `formulas/rules.py`; what they share is in `base.py`. All of them
take the same options, which are done in the same pass over memory:

max_norm : float, optional
    Clip the gradients by their global norm, as `torch.nn.utils.clip_grad_norm_` does: multiply them by
    `max_norm / (norm + 1e-6)`, if that is below 1. The norm takes one more pass over the gradients alone.
clip_value : float, optional
    Bound each element of the gradient by this value, after the norm.
ema_decay : float, optional
    Keep an exponential moving average of the parameters, `state["ema"]`, in which the old average has this weight.
zero_grad : bool, default=False
    Leave zeros in the gradients, which must be writeable then.
state_dtype : {"bfloat16", "uint8"}, optional
    Store the state of float32 parameters in two bytes a number, or in one and a scale for each block of 512, rounded up
    and down so that means over steps are exact: large models are bound by memory, and this is less of it.
    `fastadam.formulas.storage` has the details. With "uint8", blocks begin anew with each array: the split into arrays
    counts.
copy_dtype : {"float16", "bfloat16"}, optional
    Write the new parameters once more, in two bytes a number, to `copies`.
on_nonfinite : {"ignore", "skip", "raise"}, default="ignore"
    What to do with a step whose gradient holds infinity or NaN: make it; change nothing, the step count included, and
    count it in `skipped_steps`; or raise FloatingPointError, with nothing changed. It takes a pass over the gradients.
groups : mapping of str to mapping, optional
    Named groups of parameters with settings of their own, among them `frozen`: `{"biases": {"params": ["b0", "b1"],
    "weight_decay": 0.0}}`. "params" has keys or indices of `params`. `set_group` changes settings between steps.

Parameters may be one array, a list or dict of arrays, or a FlatBuffer: writeable float32 or float64 arrays of one
dtype, of any shapes, each contiguous in C or Fortran order, none overlapping another. They are updated in place. All
arithmetic is in their dtype. Parameters of float16, or of the bfloat16 that ml_dtypes defines, are the rounded copies
of float32 masters, which the optimizer keeps; gradients are then of that type too. A step gives the same bits on any
number of threads and for any split of the same values into arrays, and a `step` that raises leaves parameters and state
as they were.

Arrays on a CUDA device, of PyTorch, CuPy or Numba, are updated there; that needs the extra `cuda`: see `fastadam.cuda`.
"""

from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.row_adam import RowAdam
from fastadam.optimizers.sgd import SGD

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop", "RowAdam"]

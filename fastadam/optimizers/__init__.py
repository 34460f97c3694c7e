"""Optimizers: one class per algorithm, with PyTorch's names, defaults and semantics.

Each class names its hyper-parameters and chooses a rule of `formulas/rules.py`; `base.py` has the code that they share.
All optimizers but `RowAdam` take the same options, which are applied in the same pass over memory:

max_norm : float, optional
    Clip the gradients by their global norm, as `torch.nn.utils.clip_grad_norm_` does: multiply them by
    `max_norm / (norm + 1e-6)` if that is below 1. The norm takes an additional pass over the gradients.
clip_value : float, optional
    Clip each element of the gradient to this absolute value, after clipping by the norm.
ema_decay : float, optional
    Keep an exponential moving average of the parameters, `state["ema"]`; this is the weight of the old average.
zero_grad : bool, default=False
    Set the gradients, which must be writeable, to zero.
on_nonfinite : {"ignore", "skip", "raise"}, default="ignore"
    Treatment of gradients with infinity or NaN: "ignore" makes the step; "skip" changes nothing, not even the step
    count, and counts the step in `skipped_steps`; "raise" raises FloatingPointError and changes nothing. The last two
    take an additional pass over the gradients.
state_dtype : {"bfloat16", "uint8"}, optional
    Store the state of float32 parameters in two bytes per number, or in one byte and a scale per block of 512. Numbers
    are rounded up or down such that their means over steps are exact. The steps of large models, which are bound by
    memory, become faster; `fastadam.formulas.storage` has the details. With "uint8", each array starts a new block, so
    that results depend on the split into arrays.
copy_dtype : {"float16", "bfloat16"}, optional
    Also write the new parameters to `copies`, in two bytes per number.
groups : mapping of str to mapping, optional
    Named groups of parameters with their own settings, which include `frozen`: `{"biases": {"params": ["b0", "b1"],
    "weight_decay": 0.0}}`, where "params" has keys or indices of `params`. `set_group` changes settings between steps.

Parameters can be one array, a list or dict of arrays, or a FlatBuffer: writeable float32 or float64 arrays of one
dtype and of any shapes, each contiguous in C or Fortran order, which do not overlap. They are updated in place, and all
arithmetic is in their dtype. Parameters of float16, or of bfloat16 as defined by ml_dtypes, are rounded copies of
float32 parameters that the optimizer keeps; their gradients have the same type. A step gives the same bits on any
number of threads and for any split of the same values into arrays. If `step` raises, parameters and state are
unchanged.

Arrays of PyTorch, CuPy or Numba on a CUDA device are updated there, which requires the extra `cuda`; see
`fastadam.cuda`.
"""

from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.row_adam import RowAdam
from fastadam.optimizers.sgd import SGD

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop", "RowAdam"]

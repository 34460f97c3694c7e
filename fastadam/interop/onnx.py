"""Fitted estimators as ONNX models, which run where there is no Python.

Examples
--------
>>> from sklearn.datasets import load_iris
>>> from sklearn.preprocessing import scale
>>> from fastadam import MLPClassifier
>>> from fastadam.interop.onnx import to_onnx
>>> X, y = load_iris(return_X_y=True)
>>> classifier = MLPClassifier(random_state=0, max_iter=500).fit(scale(X), y)
>>> model = to_onnx(classifier, dtype="float32")
>>> [output.name for output in model.graph.output]
['label', 'probabilities']
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import TensorProto, helper, numpy_helper
from sklearn.utils.validation import check_is_fitted

from fastadam._typing import Array
from fastadam.buffers import FLOAT_DTYPES
from fastadam.estimators.classifier import MLPClassifier
from fastadam.estimators.regressor import MLPRegressor

__all__ = ["to_onnx"]

OPSET = 17
"""The version of ONNX's operators that a model is written in."""

IR_VERSION = 8
"""The version of the file's format, which came with that opset."""


def to_onnx(estimator: MLPRegressor | MLPClassifier, *, dtype: DTypeLike | None = None) -> onnx.ModelProto:
    """Convert a fitted estimator to an ONNX model.

    The model has one input, "X" of shape (n_samples, n_features), for any number of samples. Its outputs are those of
    skl2onnx with `zipmap=False`:

    - of a regressor "variable", of shape (n_samples, n_outputs), also for one output;
    - of a classifier "label", what `predict` returns: of shape (n_samples,), or of zeros and ones and of shape
      (n_samples, n_labels) if a sample may have several labels; and "probabilities", what `predict_proba` returns.

    Parameters
    ----------
    estimator : MLPRegressor or MLPClassifier
        A fitted estimator, with any activation, loss and number of outputs.
    dtype : {float32, float64}, optional
        The type of the weights, and of the input and the outputs but "label"; by default that of the estimator's
        weights. Many runtimes know float32 alone.

    Returns
    -------
    onnx.ModelProto
        The model, in opset 17 of ONNX's own operators. onnxruntime runs it, in both types. Labels that are integers
        are int64, those that are text are strings; others keep their type.

    Raises
    ------
    TypeError
        If `estimator` is neither of the two, if `dtype` is neither float32 nor float64, or if classes are neither
        numbers nor text.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    ValueError
        If `coefs_` and `intercepts_` were replaced by arrays that do not fit together, or `activation` by one of other
        layers.

    Notes
    -----
    Outputs agree with `predict` and `predict_proba` up to rounding. In float64 the activation "gelu" is computed to
    about 1e-7 only, for want of an error function in float64 in onnxruntime. Unlike `predict`, a model takes NaN.

    The operators are described at https://onnx.ai/onnx/operators/.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx.reference import ReferenceEvaluator
    >>> from fastadam import MLPRegressor
    >>> from fastadam.interop.onnx import to_onnx
    >>> X = np.linspace(-1, 1, 50).reshape(25, 2)
    >>> regressor = MLPRegressor(random_state=0, solver="lbfgs").fit(X, X.sum(axis=1))
    >>> (predicted,) = ReferenceEvaluator(to_onnx(regressor)).run(None, {"X": X})
    >>> predicted.shape, np.allclose(predicted[:, 0], regressor.predict(X))
    ((25, 1), True)
    """
    if not isinstance(estimator, MLPRegressor | MLPClassifier):
        raise TypeError(f"estimator must be a fitted MLPRegressor or MLPClassifier of fastadam, got {estimator!r}")
    check_is_fitted(estimator)
    layers = _layers_of(estimator)
    ops = _Graph(layers[0][0].dtype if dtype is None else _float_dtype(dtype))
    predictions = _LINKS[estimator.out_activation_](ops, _outputs(ops, layers))
    if isinstance(estimator, MLPClassifier):
        _add_classes(ops, estimator, predictions)
    else:
        ops.output("variable", predictions, estimator.n_outputs_)
    return ops.model(estimator)


Layer = tuple[Array, Array, str | None]
"""The weights, the bias, and the activation, which the last layer has none of."""


def _layers_of(estimator: Any) -> list[Layer]:
    """What `predict` computes with: arrays and activations that the user may have set since the fit included."""
    coefs, intercepts = list(map(np.asarray, estimator.coefs_)), list(map(np.asarray, estimator.intercepts_))
    units = [estimator.n_features_in_, *map(np.size, intercepts)]
    given = [array.shape for pair in zip(coefs, intercepts, strict=False) for array in pair]
    if len(coefs) != len(intercepts) or given != [shape for a, b in pairwise(units) for shape in ((a, b), (b,))]:
        raise ValueError(
            f"coefs_ and intercepts_ must have the shapes of a network with {units[0]} features, got {given}"
        )
    hidden, activation = len(coefs) - 1, estimator.activation
    names = [activation] * hidden if isinstance(activation, str) else list(activation)
    if len(names) != hidden or not set(names) <= _ACTIVATIONS.keys():
        raise ValueError(
            f"activation must be one of {sorted(_ACTIVATIONS)}, or as many of them as there are hidden layers, "
            f"{hidden}, got {activation!r}"
        )
    return list(zip(coefs, intercepts, [*names, None], strict=True))


def _float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    given = np.dtype(dtype)
    if given not in FLOAT_DTYPES:
        raise TypeError(f"dtype must be float32 or float64, got {given}")
    return given


class _Graph:
    """The graph of a model, written node by node: a call adds an operator and returns the name of what it puts out."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.element_type: int = helper.np_dtype_to_tensor_dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []

    def __call__(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Apply an operator to values, which have names, and to plain numbers."""
        names = [value if isinstance(value, str) else self.tensor(str(value), value) for value in inputs]
        result = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [result], name=result, **attributes))
        return result

    def tensor(self, name: str, value: Any) -> str:
        """A constant in the model's type."""
        return self.tensor_as_it_is(name, np.asarray(value, self.dtype))

    def tensor_as_it_is(self, name: str, value: Array) -> str:
        """A constant in its own type."""
        self._tensors[name] = numpy_helper.from_array(value, name)
        return name

    def output(self, name: str, value: str, width: int | None, element_type: int | None = None) -> None:
        """Put a value out under a name, in rows of so many elements; in none if `width` is None."""
        shape = ["n_samples"] if width is None else ["n_samples", width]
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, element_type or self.element_type, shape))

    def model(self, estimator: Any) -> onnx.ModelProto:
        """The model that has been written."""
        name = type(estimator).__name__
        X = helper.make_tensor_value_info("X", self.element_type, ["n_samples", estimator.n_features_in_])
        graph = helper.make_graph(self._nodes, name, [X], self._outputs, list(self._tensors.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastadam")


def _outputs(ops: _Graph, layers: list[Layer]) -> str:
    """What the network puts out, before the link of its loss."""
    x = "X"
    for k, (coefs, intercepts, activation) in enumerate(layers):
        x = ops("Gemm", x, ops.tensor(f"W{k}", coefs), ops.tensor(f"b{k}", intercepts))
        if activation is not None:
            x = _ACTIVATIONS[activation](ops, x)
    return x


def _add_classes(ops: _Graph, classifier: MLPClassifier, predictions: str) -> None:
    """Put out probabilities and labels: of several classes, of two, or of several labels a sample."""
    width = classifier.n_outputs_
    if width > 1 and classifier.out_activation_ == "logistic":
        labels = ops("Cast", ops("Greater", predictions, 0.5), to=TensorProto.INT64)
        ops.output("label", labels, width, TensorProto.INT64)
        ops.output("probabilities", predictions, width)
        return
    probabilities = predictions
    if width == 1:
        width, probabilities = 2, ops("Concat", ops("Sub", 1.0, predictions), predictions, axis=1)
    classes = _as_tensor(classifier.classes_)
    if classes.size == 1:  # `predict` knows no other, whatever the probabilities
        classes = np.repeat(classes, 2)
    label_type = TensorProto.STRING if classes.dtype == object else helper.np_dtype_to_tensor_dtype(classes.dtype)
    most_probable = ops("ArgMax", probabilities, axis=1, keepdims=0)
    ops.output("label", ops("Gather", ops.tensor_as_it_is("classes", classes), most_probable), None, label_type)
    ops.output("probabilities", probabilities, width)


def _as_tensor(classes: Array) -> Array:
    """Classes in a type that a tensor can have: integers of 64 bits, text as Python's objects."""
    if classes.dtype.kind in "iu":
        return classes.astype(np.int64)
    if classes.dtype.kind in "bf":
        return classes
    as_objects = classes.astype(object)
    if not all(isinstance(label, str) for label in as_objects):
        raise TypeError(f"classes must be numbers or text, got {list(classes)}")
    return as_objects


# --- the formulas of activations.py and losses.py -------------------------------------------------------------------
# Of operators that onnxruntime has in float32 and in float64: it lacks LeakyRelu, Elu, Softplus and Erf in float64.


def _leaky_relu(ops: _Graph, z: str) -> str:
    return ops("Max", z, ops("Mul", z, 0.01))


def _elu(ops: _Graph, z: str) -> str:
    return ops("Add", ops("Relu", z), ops("Sub", ops("Exp", ops("Min", z, 0.0)), 1.0))


def _softplus(ops: _Graph, z: str) -> str:
    """Without overflow: max(z, 0) + log(1 + exp(-|z|))."""
    return ops("Add", ops("Relu", z), ops("Log", ops("Add", ops("Exp", ops("Neg", ops("Abs", z))), 1.0)))


def _silu(ops: _Graph, z: str) -> str:
    return ops("Div", z, ops("Add", ops("Exp", ops("Neg", z)), 1.0))


def _gelu(ops: _Graph, z: str) -> str:
    scaled = ops("Cast", ops("Mul", z, math.sqrt(0.5)), to=TensorProto.FLOAT)
    return ops("Mul", ops("Mul", z, 0.5), ops("Add", ops("Cast", ops("Erf", scaled), to=ops.element_type), 1.0))


def _mish(ops: _Graph, z: str) -> str:
    return ops("Mul", z, ops("Tanh", _softplus(ops, z)))


_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "identity": lambda ops, z: z,
    "logistic": lambda ops, z: ops("Sigmoid", z),
    "tanh": lambda ops, z: ops("Tanh", z),
    "relu": lambda ops, z: ops("Relu", z),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
    "mish": _mish,
}

_LINKS: dict[str, Callable[[_Graph, str], str]] = {
    "identity": lambda ops, z: z,
    "exp": lambda ops, z: ops("Exp", z),
    "logistic": lambda ops, z: ops("Sigmoid", z),
    "softmax": lambda ops, z: ops("Softmax", z, axis=1),
}

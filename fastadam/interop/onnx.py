"""Conversion of fitted estimators to ONNX models, which run without Python.

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
from fastadam.buffers import float_dtype
from fastadam.estimators.classifier import MLPClassifier
from fastadam.estimators.regressor import MLPRegressor

__all__ = ["to_onnx"]

OPSET = 17
"""Version of the ONNX operators that a model uses."""

IR_VERSION = 8
"""Version of the file format, which was released with that opset."""


def to_onnx(estimator: MLPRegressor | MLPClassifier, *, dtype: DTypeLike | None = None) -> onnx.ModelProto:
    """Convert a fitted estimator to an ONNX model.

    The model has one input, "X" of shape (n_samples, n_features), for any number of samples. Its outputs are those of
    skl2onnx with `zipmap=False`:

    - for a regressor, "variable" of shape (n_samples, n_outputs), also for one output;
    - for a classifier, "label", as returned by `predict`: of shape (n_samples,), or for multilabel problems zeros and
      ones of shape (n_samples, n_labels); and "probabilities", as returned by `predict_proba`.

    Parameters
    ----------
    estimator : MLPRegressor or MLPClassifier
        Fitted estimator, with any activation, loss and number of outputs.
    dtype : {float32, float64}, optional
        Data type of the weights, of the input, and of all outputs but "label"; by default that of the weights of the
        estimator. Many runtimes only support float32.

    Returns
    -------
    onnx.ModelProto
        The model, with operators of ONNX's opset 17, which onnxruntime supports in both types. Integer labels are int64
        and labels that are text are strings; other labels keep their type.

    Raises
    ------
    TypeError
        If `estimator` is not one of these estimators, `dtype` is neither float32 nor float64, or classes are neither
        numbers nor text.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    ValueError
        If `coefs_` and `intercepts_` were replaced by arrays whose shapes do not match, or `activation` by one for
        another number of layers.

    Notes
    -----
    Outputs agree with `predict` and `predict_proba` up to rounding. In float64, the activation "gelu" is only accurate
    to about 1e-7, since onnxruntime has no error function in float64. Unlike `predict`, a model accepts NaN.

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
    ops = _Graph(layers[0][0].dtype if dtype is None else float_dtype(dtype))
    predictions = _LINKS[estimator.out_activation_](ops, _outputs(ops, layers))
    if isinstance(estimator, MLPClassifier):
        _add_classes(ops, estimator, predictions)
    else:
        ops.output("variable", predictions, estimator.n_outputs_)
    return ops.model(estimator)


Layer = tuple[Array, Array, str | None]
"""Weights, bias and activation of a layer; the last layer has no activation."""


def _layers_of(estimator: Any) -> list[Layer]:
    """Check and return the layers that `predict` uses, also if the user has replaced arrays or activations."""
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


class _Graph:
    """Graph of a model, built node by node: a call adds an operator and returns the name of its output."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.element_type: int = helper.np_dtype_to_tensor_dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []

    def __call__(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Apply an operator to values, which are given by name, and to plain numbers."""
        names = [value if isinstance(value, str) else self.tensor(str(value), value) for value in inputs]
        result = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [result], name=result, **attributes))
        return result

    def tensor(self, name: str, value: Any) -> str:
        """Add a constant in the type of the model."""
        return self.tensor_as_it_is(name, np.asarray(value, self.dtype))

    def tensor_as_it_is(self, name: str, value: Array) -> str:
        """Add a constant in its own type."""
        self._tensors[name] = numpy_helper.from_array(value, name)
        return name

    def output(self, name: str, value: str, width: int | None, element_type: int | None = None) -> None:
        """Add an output: a value, with rows of `width` elements, or without rows if `width` is None."""
        shape = ["n_samples"] if width is None else ["n_samples", width]
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, element_type or self.element_type, shape))

    def model(self, estimator: Any) -> onnx.ModelProto:
        """Make the model."""
        name = type(estimator).__name__
        X = helper.make_tensor_value_info("X", self.element_type, ["n_samples", estimator.n_features_in_])
        graph = helper.make_graph(self._nodes, name, [X], self._outputs, list(self._tensors.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastadam")


def _outputs(ops: _Graph, layers: list[Layer]) -> str:
    """Add the layers, and return the output before the inverse link of the loss."""
    x = "X"
    for k, (coefs, intercepts, activation) in enumerate(layers):
        x = ops("Gemm", x, ops.tensor(f"W{k}", coefs), ops.tensor(f"b{k}", intercepts))
        if activation is not None:
            x = _ACTIVATIONS[activation](ops, x)
    return x


def _add_classes(ops: _Graph, classifier: MLPClassifier, predictions: str) -> None:
    """Add the outputs of a classifier: labels and probabilities."""
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
    if classes.size == 1:  # `predict` returns it for any probabilities
        classes = np.repeat(classes, 2)
    label_type = TensorProto.STRING if classes.dtype == object else helper.np_dtype_to_tensor_dtype(classes.dtype)
    most_probable = ops("ArgMax", probabilities, axis=1, keepdims=0)
    ops.output("label", ops("Gather", ops.tensor_as_it_is("classes", classes), most_probable), None, label_type)
    ops.output("probabilities", probabilities, width)


def _as_tensor(classes: Array) -> Array:
    """Convert classes to a type of tensors: integers to int64, text to Python objects."""
    if classes.dtype.kind in "iu":
        return classes.astype(np.int64)
    if classes.dtype.kind in "bf":
        return classes
    as_objects = classes.astype(object)
    if not all(isinstance(label, str) for label in as_objects):
        raise TypeError(f"classes must be numbers or text, got {list(classes)}")
    return as_objects


# --- the formulas of formulas/activations.py and losses.py ------------------------------------------------------------
# Only of operators that onnxruntime has in both types: it lacks LeakyRelu, Elu, Softplus and Erf in float64.


def _leaky_relu(ops: _Graph, z: str) -> str:
    return ops("Max", z, ops("Mul", z, 0.01))


def _elu(ops: _Graph, z: str) -> str:
    return ops("Add", ops("Relu", z), ops("Sub", ops("Exp", ops("Min", z, 0.0)), 1.0))


def _softplus(ops: _Graph, z: str) -> str:
    """Softplus without overflow: max(z, 0) + log(1 + exp(-|z|))."""
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

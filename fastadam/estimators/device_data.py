"""Arrays on a CUDA device as the estimators meet them: checked under scikit-learn's contract, without leaving it.

What scikit-learn checks is checked of an outline: an array on the host without memory of its own, which has the shape,
the dtype and the infinities of the data. Targets and weights, which are small, are brought to the host.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn import config_context
from sklearn.utils.validation import validate_data

from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.network import as_samples
from fastadam.cuda.detection import is_device_array
from fastadam.formulas.network import Samples

if TYPE_CHECKING:
    from fastadam.cuda.data import DeviceMatrix


def on_host(name: str, array: Any) -> Any:
    """A copy on the host of an array on a device; anything else as it is."""
    if array is None or not is_device_array(array):
        return array
    from fastadam.cuda.data import brought_to_host

    return brought_to_host(name, array)


def checked(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, incremental: bool, reset: bool
) -> tuple[Any, Array, Any]:
    """X and numeric targets as the estimator checks them, and the weights; an X that lies on a device stays there.

    Raises
    ------
    TypeError
        If X lies on a device and is to be trained on elsewhere.
    """
    if estimator.device != "cpu":
        y, sample_weight = on_host("y", y), on_host("sample_weight", sample_weight)
    if not is_device_array(X):
        return *estimator._validate_input(X, y, incremental=incremental, reset=reset), sample_weight
    if estimator.device == "cpu" or estimator.solver == "lbfgs":
        raise TypeError(
            f"X lies on a CUDA device, which needs device='cuda' or 'auto' and a stochastic solver, got "
            f"device={estimator.device!r} and solver={estimator.solver!r}; or bring X to the host"
        )
    data = _resident(X)
    _, y = estimator._validate_input(data.outline, y, incremental=incremental, reset=reset)
    return data, y, sample_weight


def _resident(X: Any) -> "DeviceMatrix":
    from fastadam.cuda.data import DeviceMatrix

    return DeviceMatrix(X)


def samples_of(X: Any, dtype: Any, y: Array, weight: Array | None) -> Samples:
    """Validated data in the form that an engine reads, where it lies."""
    if not is_resident(X):
        return as_samples(X, dtype, y, weight)
    return as_samples(X.outline[:0], dtype, y, weight)._replace(X=X.of_dtype(dtype))


def is_resident(X: Any) -> bool:
    """Whether validated data are some that stay on a device."""
    return not (isinstance(X, np.ndarray) or sparse.issparse(X))


def predict(estimator: Any, X: Any, params: FlatBuffer, activations: tuple[str, ...]) -> Array:
    """What a fitted estimator predicts of an array on a device: an array of CuPy's, which does as NumPy's do."""
    from fastadam.cuda import network as on_device

    data = _resident(X)
    with config_context(assume_finite=data.is_finite):  # which is known, and the outline has as many elements
        validate_data(estimator, data.outline, reset=False)
    predicted: Array = on_device.predict(params, activations, estimator.out_activation_, data)
    return predicted


def like_given(X: Any, values: Array) -> Array:
    """Predictions as an array of the library that X is of, where X lies; on the host, as they are."""
    if is_device_array(X):
        from fastadam.cuda.data import in_kind_of

        values = in_kind_of(X, values)
    return values

"""Arrays on a CUDA device as data of the estimators: checked under scikit-learn's contract, without leaving the device.

scikit-learn checks an outline: an array on the host without memory of its own, which has the shape, the dtype and the
infinities of the data. Targets and weights, which are small, are copied to the host.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn import config_context

from fastadam._typing import Array
from fastadam.buffers import FlatBuffer
from fastadam.cpu.network import as_samples
from fastadam.cuda.detection import is_device_array
from fastadam.estimators.settings import FitSettings
from fastadam.formulas.network import Samples

if TYPE_CHECKING:
    from fastadam.cuda.data import DeviceMatrix


def on_host(name: str, array: Any) -> Any:
    """Copy an array on a device to the host; return anything else unchanged."""
    if array is None or not is_device_array(array):
        return array
    from fastadam.cuda.data import brought_to_host

    return brought_to_host(name, array)


def checked(
    X: Any, y: Any, sample_weight: Any, settings: FitSettings, validate: Callable[[Any, Any], tuple[Any, Array]]
) -> tuple[Any, Array, Any]:
    """Validate the data of a fit; an X on a device stays there.

    Parameters
    ----------
    X, y, sample_weight : object
        Data as given to `fit`.
    settings : FitSettings
        Settings of the fit.
    validate : callable
        Given X, or its outline, and y: returns X and numeric targets, validated under scikit-learn's contract.

    Returns
    -------
    X : ndarray, sparse matrix or DeviceMatrix
        Validated features.
    y : ndarray
        Numeric targets.
    sample_weight : object
        Weights, still to be validated.

    Raises
    ------
    TypeError
        If X lies on a device and training takes place on the host.
    """
    if settings.device != "cpu":
        y, sample_weight = on_host("y", y), on_host("sample_weight", sample_weight)
    if not is_device_array(X):
        return *validate(X, y), sample_weight
    if settings.device == "cpu" or settings.solver == "lbfgs":
        raise TypeError(
            f"X lies on a CUDA device, which needs device='cuda' or 'auto' and a stochastic solver, got "
            f"device={settings.device!r} and solver={settings.solver!r}; or bring X to the host"
        )
    data = _resident(X)
    _, y = validate(data.outline, y)
    return data, y, sample_weight


def _resident(X: Any) -> "DeviceMatrix":
    from fastadam.cuda.data import DeviceMatrix

    return DeviceMatrix(X)


def samples_of(X: Any, dtype: Any, y: Array, weight: Array | None) -> Samples:
    """Convert validated data to the form that an engine reads, on the device where X lies."""
    if not is_resident(X):
        return as_samples(X, dtype, y, weight)
    return as_samples(X.outline[:0], dtype, y, weight)._replace(X=X.of_dtype(dtype))


def is_resident(X: Any) -> bool:
    """Whether validated data lie on a device."""
    return not (isinstance(X, np.ndarray) or sparse.issparse(X))


def predict(
    X: Any, params: FlatBuffer, activations: tuple[str, ...], link: str, validate: Callable[[Any], Any]
) -> Array:
    """Predictions for an array on a device, as a CuPy array, once its outline has passed `validate`."""
    from fastadam.cuda import network as on_device

    data = _resident(X)
    with config_context(assume_finite=data.is_finite):  # known already, and the outline has as many elements
        validate(data.outline)
    predicted: Array = on_device.predict(params, activations, link, data)
    return predicted


def like_given(X: Any, values: Array) -> Array:
    """Convert predictions to an array of the library of X, where X lies; on the host, return them unchanged."""
    if is_device_array(X):
        from fastadam.cuda.data import in_kind_of

        values = in_kind_of(X, values)
    return values

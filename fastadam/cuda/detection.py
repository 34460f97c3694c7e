"""Tell arrays on a CUDA device from others, without loading a CUDA library."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.buffers import FlatBuffer


def on_device(arrays: Any) -> bool:
    """Tell whether an object is an array on a CUDA device, or a list, tuple or mapping that holds one."""
    if isinstance(arrays, Mapping):
        arrays = list(arrays.values())
    if isinstance(arrays, list | tuple):
        return any(map(is_device_array, arrays))
    return is_device_array(arrays)


def is_device_array(array: Any) -> bool:
    """Tell whether an array offers memory of a CUDA device, by `__cuda_array_interface__` or DLPack."""
    if isinstance(array, np.ndarray | FlatBuffer):
        return False
    if getattr(array, "requires_grad", False) is True:  # PyTorch offers no interface for these
        array = array.detach()
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) in _CUDA_MEMORY


_CUDA_MEMORY = (2, 13)
"""DLPack's numbers of device memory, and of memory managed by the driver."""

"""Stand-ins for arrays on a CUDA device: memory of the host, which the simulator takes for that of a device."""

import numpy as np

from fastadam._memory import aligned_zeros

BFLOAT16 = "<V2"


class FakeDeviceArray:
    """An array that offers `__cuda_array_interface__`, `shift` elements off the alignment of a vector.

    With `typestr=BFLOAT16`, as PyTorch, CuPy and ml_dtypes have it, its bits are those of bfloat16.
    """

    def __init__(self, values, *, shift=0, read_only=False, order="C", device=0, stream=None, typestr=None):
        values = np.asarray(values)
        self.memory = aligned_zeros(values.size + shift, values.dtype)
        self.host = self.memory[shift:].reshape(values.shape, order=order)
        self.host[...] = values
        self.read_only, self.device, self.stream = read_only, device, stream
        self.typestr = typestr or self.host.dtype.str

    @property
    def __cuda_array_interface__(self):
        strides = None if self.host.flags.c_contiguous else self.host.strides
        return {
            "data": (self.host.ctypes.data, self.read_only), "shape": self.host.shape, "strides": strides,
            "typestr": self.typestr, "version": 3, "stream": self.stream,
        }  # fmt: skip

    def __dlpack_device__(self):
        return 2, self.device

    def strided(self):
        """View every second element."""
        view = FakeDeviceArray(self.host)
        view.host = view.host[::2]
        return view


class RequiresGrad:
    """An array that offers its memory only after it is detached, as parameters of PyTorch do."""

    requires_grad = True

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

    def detach(self):
        return self.array

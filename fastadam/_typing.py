"""Types shared by many modules."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any dtype."""

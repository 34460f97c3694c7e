"""Types that many modules name."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any dtype."""

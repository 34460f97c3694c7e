"""Fused Adam kernels over flat parameter buffers, and scikit-learn-compatible MLPs trained by them.

The estimators, the schedules, `optimizer` and the commands are loaded on first access, so that importing only the
optimizers does not import scikit-learn.
"""

from typing import TYPE_CHECKING, Any

from fastadam import kernels
from fastadam._moved import find_moved_modules
from fastadam.buffers import FlatBuffer
from fastadam.optimizers import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop, RowAdam

if TYPE_CHECKING:
    from fastadam import schedules
    from fastadam.environment import info, warmup
    from fastadam.estimators.checkpoint import Checkpoint, load_checkpoint
    from fastadam.estimators.classifier import MLPClassifier
    from fastadam.estimators.display import LossCurveDisplay
    from fastadam.estimators.regressor import MLPRegressor
    from fastadam.optimizers.custom import optimizer

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Checkpoint",
    "FlatBuffer",
    "Lion",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "NAdam",
    "RAdam",
    "RMSprop",
    "RowAdam",
    "__version__",
    "info",
    "kernels",
    "load_checkpoint",
    "optimizer",
    "schedules",
    "warmup",
]  # fmt: skip

_HOMES = {
    "Checkpoint": "fastadam.estimators.checkpoint",
    "LossCurveDisplay": "fastadam.estimators.display",
    "MLPClassifier": "fastadam.estimators.classifier",
    "MLPRegressor": "fastadam.estimators.regressor",
    "info": "fastadam.environment",
    "load_checkpoint": "fastadam.estimators.checkpoint",
    "optimizer": "fastadam.optimizers.custom",
    "schedules": "fastadam.schedules",
    "warmup": "fastadam.environment",
}


find_moved_modules()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastadam' has no attribute {name!r}")
    import importlib

    home = importlib.import_module(_HOMES[name])
    return home if home.__name__ == f"fastadam.{name}" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

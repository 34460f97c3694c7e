"""Modules at the paths they had in earlier versions, for pickles that name them."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HOMES = {
    "_solvers": "estimators.solvers",
    "checkpoint": "estimators.checkpoint",
    "classifier": "estimators.classifier",
    "display": "estimators.display",
    "network": "cpu.network",
    "regressor": "estimators.regressor",
    "rows": "optimizers.row_adam",
    "trainer": "estimators.training",
}


class _MovedModules(MetaPathFinder, Loader):
    """Finder of modules by their earlier paths: each has the attributes of the module at its present path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "fastadam" and name in _HOMES else None

    def exec_module(self, module: ModuleType) -> None:
        home = f"fastadam.{_HOMES[module.__name__.partition('.')[2]]}"

        def attribute(name: str) -> Any:
            return getattr(importlib.import_module(home), name)

        module.__getattr__ = attribute  # type: ignore[method-assign]


def find_moved_modules() -> None:
    """Make modules importable by their earlier paths, which are searched after all other places."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())

"""scikit-learn's callbacks around the epochs of a fit."""

from collections.abc import Callable
from typing import Any


class EpochCallbacks:
    """Runs the callbacks that were set on an estimator: the fit is a task, and each epoch one of its subtasks.

    Does nothing, at no cost, where none were set. `fitted_copy` is called for a callback that wants a fitted estimator:
    it returns the attributes to give to a copy of `estimator`, which further epochs must not change.
    """

    def __init__(
        self,
        estimator: Any,
        data: tuple[Any, Any],
        sample_weight: Any,
        epochs: int,
        fitted_copy: Callable[[], dict[str, Any]],
    ) -> None:
        self._fitted_copy = fitted_copy
        self._task: dict[str, Any] = {"estimator": estimator, "X": data[0], "y": data[1]}
        if sample_weight is not None:
            self._task["metadata"] = {"sample_weight": sample_weight}
        self._fit = self._epoch = None
        if getattr(estimator, "_skl_callbacks", None):
            self._fit = estimator._init_callback_context(max_subtasks=epochs)
            self._fit.call_on_fit_task_begin(**self._task)

    def begin_epoch(self) -> None:
        """Open the subtask of the epoch that begins."""
        if self._fit is not None:
            self._epoch = self._fit.subcontext(task_name="epoch").call_on_fit_task_begin(**self._task)

    def end_epoch(self) -> bool:
        """Close the subtask of the epoch; True if a callback wants training to stop."""
        return self._epoch is not None and self._end(self._epoch)

    def end_fit(self) -> None:
        """Close the task of the fit."""
        if self._fit is not None:
            self._end(self._fit)

    def _end(self, context: Any) -> bool:
        return bool(context.call_on_fit_task_end(**self._task, reconstruction_attributes=self._fitted_copy))

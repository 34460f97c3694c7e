"""scikit-learn's callbacks around the epochs of a fit."""

from collections.abc import Callable, Mapping
from typing import Any


class EpochCallbacks:
    """Runs the callbacks that were set on an estimator: the fit is a task, and each epoch one of its subtasks.

    Does nothing, at no cost, where no callbacks were set.

    Parameters
    ----------
    context : CallbackContext or None
        Context of the fit, as scikit-learn makes it; None if no callbacks were set.
    task : mapping of str to object
        Arguments that scikit-learn passes to every callback: the estimator and its data.
    fitted_copy : callable
        Called for a callback that wants a fitted estimator. Returns attributes for a copy of the estimator, which
        further epochs must not change.
    """

    def __init__(self, context: Any, task: Mapping[str, Any], fitted_copy: Callable[[], dict[str, Any]]) -> None:
        self._fit, self._epoch, self._task, self._fitted_copy = context, None, task, fitted_copy
        if context is not None:
            context.call_on_fit_task_begin(**task)

    def begin_epoch(self) -> None:
        """Open the subtask of the next epoch."""
        if self._fit is not None:
            self._epoch = self._fit.subcontext(task_name="epoch").call_on_fit_task_begin(**self._task)

    def end_epoch(self) -> bool:
        """Close the subtask of the epoch; return True if a callback wants training to stop."""
        return self._epoch is not None and self._end(self._epoch)

    def end_fit(self) -> None:
        """Close the task of the fit."""
        if self._fit is not None:
            self._end(self._fit)

    def _end(self, context: Any) -> bool:
        return bool(context.call_on_fit_task_end(**self._task, reconstruction_attributes=self._fitted_copy))

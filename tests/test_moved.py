"""Pickles that name modules by the paths that they had before they moved: see `data/write_pickles.py`."""

import importlib
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastadam
from fastadam._moved import _HOMES

with zipfile.ZipFile(Path(__file__).parent / "data" / "pickles.zip") as _file:
    PICKLES = {name: _file.read(name) for name in _file.namelist()}
OPTIMIZERS = [name for name in PICKLES if hasattr(getattr(fastadam, name, None), "state_dict")]
ESTIMATORS = [name for name in PICKLES if name.startswith(("regressor", "classifier"))]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_the_pickles_name_the_modules_of_before():
    named = {name for data in PICKLES.values() for name in re.findall(rb"cfastadam\.(\w+)\n", data)}
    unmoved = {b"buffers", b"optimizers", b"schedules"}
    assert named == unmoved | {name.encode() for name in _HOMES} - {b"display"}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_of_before_predicts_the_same_and_is_trained_further(name):
    model, X, predicted = pickle.loads(PICKLES[name])
    assert type(model) in (fastadam.MLPRegressor, fastadam.MLPClassifier)
    if isinstance(model, fastadam.MLPRegressor):
        np.testing.assert_allclose(model.predict(X), predicted, rtol=1e-12)
    else:
        np.testing.assert_array_equal(model.predict(X), predicted)
    epochs = len(getattr(model, "loss_curve_", []))
    model.set_params(warm_start=True).fit(X, np.resize(getattr(model, "classes_", predicted), len(X)))
    assert len(getattr(model, "loss_curve_", [])) == 2 * epochs
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_before_takes_the_step_that_it_took_then(name):
    optimizer, grads, stepped = pickle.loads(PICKLES[name])
    assert type(optimizer) is getattr(fastadam, name)
    optimizer.step(*grads) if isinstance(grads, tuple) else optimizer.step(grads)
    assert optimizer.t == 2
    for key in stepped if isinstance(stepped, dict) else [...]:
        np.testing.assert_allclose(optimizer.params[key], stepped[key], rtol=1e-14)


def test_every_optimizer_is_among_them():
    public = {name for name in fastadam.__all__ if hasattr(getattr(fastadam, name), "state_dict")}
    assert public == set(OPTIMIZERS)


def test_a_buffer_and_a_callback_of_before():
    buffer, name, values = pickle.loads(PICKLES["FlatBuffer"])
    assert type(buffer) is fastadam.FlatBuffer
    np.testing.assert_array_equal(buffer[name], values)
    assert np.shares_memory(buffer[name], buffer.flat)
    checkpoint, name, value = pickle.loads(PICKLES["Checkpoint"])
    assert type(checkpoint) is fastadam.Checkpoint
    assert getattr(checkpoint, name) == value


@pytest.mark.parametrize("module", _HOMES)
def test_a_module_of_before_has_the_names_of_todays(module):
    then = importlib.import_module(f"fastadam.{module}")
    now = importlib.import_module(f"fastadam.{_HOMES[module]}")
    names = [name for name, value in vars(now).items() if isinstance(value, type)]
    assert names
    assert all(getattr(then, name) is getattr(now, name) for name in names)


def test_the_figure_of_losses_is_found_by_its_path_of_before():
    assert pickle.loads(b"cfastadam.display\nLossCurveDisplay\n.") is fastadam.LossCurveDisplay


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"fastadam\.never"):
        importlib.import_module("fastadam.never")

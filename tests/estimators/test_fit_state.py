"""State of a fit as it is saved: complete, and checked entry by entry."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from fastadam import Checkpoint, MLPClassifier, MLPRegressor, load_checkpoint
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.estimators.fit_state import _PROGRESS
from fastadam.estimators.training import Progress
from tests.helpers.checkpoints import KINDS, X, crash, make, read_entries, write_entries, y

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="the estimators are trained"),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


def test_all_attributes_are_there_again(kind, path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    target = np.array(["low", "middle", "high"])[KINDS[kind](X)] if kind is MLPClassifier else KINDS[kind](X)
    model = make(kind, early_stopping=True, warm_start=True).set_callbacks(Checkpoint(path)).fit(frame, target)
    loaded = load_checkpoint(path)
    expected = {name for name in vars(model) if "_callback" not in name} - {"_parameters_before"}
    assert set(vars(loaded)) == expected | {"_resumes"}
    for name in expected:
        value, again = getattr(model, name), getattr(loaded, name)
        assert type(again) is type(value), name
        if name not in ("_label_binarizer", "_optimizer", "_layout", "_random_state", "_views"):
            assert pickle.dumps(again) == pickle.dumps(value), name
    assert {field.name for field in dataclasses.fields(Progress)} == {*_PROGRESS, "best"}


def leaves(value, at=()):
    """Where in nested lists and dicts there is a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield at
    for key, child in children:
        yield from leaves(child, (*at, key))


def replaced(content, at, value):
    content = parent = json.loads(content)
    for key in at[:-1]:
        parent = parent[key]
    parent[at[-1]] = value
    return json.dumps(content)


def is_read_without_harm(path, kind):
    """The file is refused, or so is the next fit, or that fit works; nothing else may happen."""
    try:
        model = load_checkpoint(path)
    except ValueError as error:
        assert "must " in str(error)  # noqa: PT017
        return False
    model.set_params(max_iter=min(model.max_iter, 8))
    try:
        model.predict(X)
        model.fit(X, KINDS[kind](X))
    except (ValueError, TypeError):
        return False
    return True


@pytest.mark.thin(30)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_entries_of_another_type_or_size_are_refused(kind, path):
    crash(make(kind, hidden_layer_sizes=(2,), early_stopping=True, learning_rate="plateau"), path, 4, X, KINDS[kind](X))
    entries, refused = read_entries(path), 0
    places = [at for at in leaves(json.loads(entries["content.json"])) if at]
    for at in places:
        for value in (None, -1, 2**70, "text", {}, {"$array": "fit.progress.order"}):
            write_entries(path, entries | {"content.json": replaced(entries["content.json"], at, value)})
            refused += not is_read_without_harm(path, kind)
    assert refused > 4 * len(places)


def test_arrays_of_another_type_or_size_are_refused(kind, path):
    crash(make(kind, hidden_layer_sizes=(2,), early_stopping=True), path, 4, X, KINDS[kind](X))
    entries = read_entries(path)
    for name in set(entries) - {"content.json"}:
        array = np.load(io.BytesIO(entries[name]))
        of_any_size = any(part in name for part in ("losses", "scores", "fit.classes"))
        of_any_type = "classes" in name
        for other in (np.append(array, array[-1:]), array[:0], array[:, None], array.astype(np.uint8)):
            file = io.BytesIO()
            np.save(file, other)
            write_entries(path, entries | {name: file.getvalue()})
            may_be = other.ndim == 1 and (of_any_type if other.size == array.size else of_any_size)
            assert not is_read_without_harm(path, kind) or may_be or not array.size, name


@pytest.mark.parametrize("change", [lambda order: order + 1, lambda order: order * 0, lambda order: -order - 1])
def test_an_order_of_samples_that_are_not_there_is_refused(change, path):
    crash(make(MLPRegressor), path, 4, X, y)
    entries, file = read_entries(path), io.BytesIO()
    np.save(file, change(np.load(io.BytesIO(entries["fit.progress.order.npy"]))))
    write_entries(path, entries | {"fit.progress.order.npy": file.getvalue()})
    with pytest.raises(ValueError, match="the index of each sample once"):
        load_checkpoint(path)


@pytest.mark.parametrize(("name", "value"), [("pos", 625), ("pos", -1), ("pos", 2**31), ("pos", 1.5)])
def test_a_position_beyond_the_random_stream_is_refused(name, value, path):
    crash(make(MLPRegressor), path, 4, X, y)
    entries = read_entries(path)
    at = ("content", "fit", "random_state", "$random_state", name)
    write_entries(path, entries | {"content.json": replaced(entries["content.json"], at, value)})
    with pytest.raises(ValueError, match="the position of a RandomState"):
        load_checkpoint(path)

"""Estimators converted to ONNX give in onnxruntime what they predict themselves."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor as TheirRegressor

from fastadam import MLPClassifier, MLPRegressor
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.formulas.losses import LOSSES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
converter = pytest.importorskip("fastadam.interop.onnx")
to_onnx = converter.to_onnx

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(JIT_DISABLED, reason="the estimators are trained"),
]

rng = np.random.default_rng(0)
X = rng.standard_normal((80, 6))
NUMBER = X[:, 0] * X[:, 1] + X[:, 2]
THREE = np.digitize(NUMBER, [-0.5, 0.5])
TARGETS = {
    "one output": NUMBER**2,
    "three outputs": np.column_stack([NUMBER**2, X[:, 3] ** 2, np.exp(X[:, 4])]),
    "two classes": THREE > 0,
    "three classes": THREE,
    "labels": np.column_stack([X[:, 0] > 0, X[:, 1] > X[:, 2], NUMBER > 0.3]).astype(int),
}
REGRESSION = [name for name in TARGETS if "output" in name]
REGRESSION_LOSSES = ["squared_error", "absolute_error", "huber", "quantile", "poisson"]
MODELS = {
    **{f"{loss}, {name}": (loss, name) for loss in REGRESSION_LOSSES for name in REGRESSION},
    **{name: (None, name) for name in TARGETS if name not in REGRESSION},
}


def fitted(loss=None, target="one output", dtype=np.float64, y=None, **parameters):
    """An estimator after a few epochs; of a loss a regressor, else a classifier."""
    y = TARGETS[target] if y is None else y
    parameters = {"hidden_layer_sizes": (7, 5), "max_iter": 3, "random_state": 0} | parameters
    if loss is None:
        return MLPClassifier(**parameters).fit(X.astype(dtype), y)
    return MLPRegressor(loss, **parameters, quantile=0.8 if loss == "quantile" else None).fit(X.astype(dtype), y)


def run(model, X):
    """The outputs by name, once the model has passed ONNX's own checks."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert [given.name for given in session.get_inputs()] == ["X"]
    for output, value in zip(session.get_outputs(), values := session.run(None, {"X": X}), strict=True):
        assert value.shape == (len(X), *output.shape[1:])
    return dict(zip(names, values, strict=True))


def assert_close(actual, expected, tolerance):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def assert_agrees(estimator, X, dtype=None, tolerance=1e-5):
    """The same predictions; the same label wherever no two classes are as probable."""
    X_model = X.astype(estimator.coefs_[0].dtype if dtype is None else dtype)
    outputs = run(to_onnx(estimator, dtype=dtype), X_model)
    if isinstance(estimator, MLPRegressor):
        assert list(outputs) == ["variable"]
        predicted = estimator.predict(X).reshape(len(X), -1).astype(X_model.dtype)
        assert_close(outputs["variable"], predicted, tolerance)
        return outputs
    assert list(outputs) == ["label", "probabilities"]
    probabilities, labels = estimator.predict_proba(X), estimator.predict(X)
    assert_close(outputs["probabilities"], probabilities.astype(X_model.dtype), tolerance)
    if labels.ndim == 2:
        clear = abs(probabilities - 0.5) > tolerance
    else:
        clear = np.ptp(np.sort(probabilities)[:, -2:], axis=1) > tolerance
    assert np.all((outputs["label"] == labels) | ~clear)
    assert np.mean(clear) > 0.9
    return outputs


def tolerance_of(dtype, activation):
    """1e-5 is promised; float64 is as exact as it should be, but for an error function in float32."""
    return 1e-5 if dtype == np.float32 else 1e-6 if activation == "gelu" else 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("model", MODELS)
def test_every_activation_loss_and_output(model, activation, dtype):
    loss, target = MODELS[model]
    estimator = fitted(loss, target, dtype, activation=activation)
    assert_agrees(estimator, X.astype(dtype), tolerance=tolerance_of(dtype, activation))


def test_the_grid_has_every_loss():
    assert {loss for loss, _ in MODELS.values() if loss} == LOSSES.keys() - {"log_loss", "multinomial"}
    assert fitted(None, "two classes").out_activation_ == LOSSES["log_loss"].link
    assert fitted(None, "three classes").out_activation_ == LOSSES["multinomial"].link


def test_there_is_a_formula_for_every_activation_and_every_link():
    assert converter._ACTIVATIONS.keys() == ACTIVATIONS.keys()
    assert converter._LINKS.keys() == {loss.link for loss in LOSSES.values()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_far_from_zero(activation, dtype):
    """One unit whose output is the activation itself: where exp overflows, and where a difference would cancel."""
    z = np.array([0.0, 1e-6, 1e-3, 0.1, 1, 5, 17, 20, 50, 90, 200, 800, 1e4], dtype)
    z = np.concatenate([-z[::-1], z])[:, np.newaxis]
    estimator = MLPRegressor(hidden_layer_sizes=1, activation=activation, max_iter=1).fit(z[:4], z[:4, 0])
    estimator.coefs_ = [np.ones((1, 1), dtype)] * 2
    estimator.intercepts_ = [np.zeros(1, dtype)] * 2
    assert_agrees(estimator, z, tolerance=tolerance_of(dtype, activation))


def test_an_activation_for_each_layer():
    estimator = fitted("squared_error", hidden_layer_sizes=(4, 3, 2), activation=("gelu", "tanh", "elu"))
    assert_agrees(estimator, X)
    one_for_all = fitted("squared_error", hidden_layer_sizes=(4, 3, 2), activation="tanh")
    assert not np.allclose(run(to_onnx(one_for_all), X)["variable"], run(to_onnx(estimator), X)["variable"])


@pytest.mark.parametrize("target", ["one output", "two classes"])
@pytest.mark.parametrize("hidden", [(), (1,), (300,)])
def test_few_and_many_hidden_units(hidden, target):
    assert_agrees(fitted("squared_error" if target in REGRESSION else None, target, hidden_layer_sizes=hidden), X)


@pytest.mark.parametrize("n_samples", [1, 2, 1000])
def test_any_number_of_samples(n_samples):
    assert_agrees(fitted("poisson", "three outputs"), np.resize(X, (n_samples, 6)))
    assert_agrees(fitted(None, "two classes"), np.resize(X, (n_samples, 6)))


@pytest.mark.parametrize(
    ("trained", "asked"), [(np.float64, np.float32), (np.float32, np.float64), (np.float64, "float32")]
)
def test_another_type_than_that_of_training(trained, asked):
    for estimator in (fitted("squared_error", dtype=trained), fitted(None, "three classes", dtype=trained)):
        values = assert_agrees(estimator, X.astype(trained), dtype=asked)
        assert {value.dtype for value in values.values()} <= {np.dtype(asked), np.dtype(np.int64)}


CLASSES = {
    "text": (["no", "yes"], "O"),
    "texts": (["blue", "green", "zürich"], "O"),
    "objects": (np.array(["a", "b", "c"], dtype=object), "O"),
    "negative": ([-5, 3], np.int64),
    "narrow": (np.array([7, 9, 250], dtype=np.uint8), np.int64),
    "wide": ([-(2**62), 0, 2**62], np.int64),
    "truth": ([False, True], np.bool_),
    "fractions": ([1.0, 2.0, 3.0], np.float64),
    "one": ([4], np.int64),
    "one text": (["only"], "O"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_labels_are_those_of_the_classes(kind):
    classes, dtype = CLASSES[kind]
    classes = np.asarray(classes)
    y = classes[THREE % classes.size]
    estimator = fitted(y=y, max_iter=60, learning_rate_init=0.02, dtype=np.float32)
    labels = assert_agrees(estimator, X.astype(np.float32))["label"]
    assert labels.dtype == dtype
    assert set(labels) == set(classes)
    assert_agrees(estimator, X[:1].astype(np.float32))


def test_a_single_class_is_the_label_whatever_its_probability():
    estimator = fitted(y=np.full(len(X), "only"))
    for bias in (-5.0, 5.0):
        estimator.intercepts_[-1] = np.array([bias])
        assert set(assert_agrees(estimator, X)["label"]) == {"only"} == set(estimator.predict(X))


def test_several_labels_a_sample():
    X, y = make_multilabel_classification(150, n_features=6, n_classes=4, random_state=0)
    estimator = MLPClassifier(random_state=0, max_iter=60).fit(X, y)
    labels = assert_agrees(estimator, X)["label"]
    assert labels.shape == y.shape
    assert labels.dtype == np.int64
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize(
    "parameters",
    [{"solver": "lbfgs"}, {"solver": "sgd"}, {"early_stopping": True}, {"dropout": 0.4}],
    ids=lambda parameters: next(iter(parameters)) + "=" + str(next(iter(parameters.values()))),
)
def test_however_it_was_trained(parameters):
    assert_agrees(fitted("squared_error", **parameters), X)
    assert_agrees(fitted(None, "three classes", **parameters), X)


def test_partial_fit_before_all_classes_were_seen():
    estimator = MLPClassifier((4,), random_state=0).partial_fit(X[:10], np.full(10, "b"), classes=["a", "b", "c"])
    assert_agrees(estimator, X)


def test_arrays_and_activations_that_were_set_after_the_fit():
    estimator = fitted("squared_error")
    before = estimator.predict(X)
    estimator.coefs_[0] = estimator.coefs_[0] * 3
    estimator.set_params(activation="tanh")
    assert not np.allclose(estimator.predict(X), before)
    assert_agrees(estimator, X)


def test_a_model_is_written_for_runtimes_of_long_ago_and_in_onnx_own_operators():
    for activation in ACTIVATIONS:
        model = to_onnx(fitted(None, "three classes", activation=activation))
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        assert model.ir_version == 8
        assert (model.graph.name, model.producer_name) == ("MLPClassifier", "fastadam")


def test_the_standard_itself_agrees():
    """ONNX's reference implementation, in NumPy, is another reader of the same file."""
    from onnx.reference import ReferenceEvaluator

    estimator = fitted(None, "three classes", activation=("elu", "mish"))
    label, probabilities = ReferenceEvaluator(to_onnx(estimator)).run(None, {"X": X})
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(label, estimator.predict(X))


def test_a_model_goes_through_a_file(tmp_path):
    estimator = fitted(None, "two classes")
    onnx.save(to_onnx(estimator), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (label,) = session.run(["label"], {"X": X})
    np.testing.assert_array_equal(label, estimator.predict(X))


def test_the_estimator_stays_as_it_was():
    estimator = fitted(None, "three classes")
    before = pickle.dumps(estimator)
    model = to_onnx(estimator, dtype=np.float32)
    assert pickle.dumps(estimator) == before
    assert to_onnx(estimator, dtype=np.float32) == model


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_an_estimator_that_is_not_fitted(kind):
    with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
        to_onnx(kind())


@pytest.mark.parametrize("foreign", [LinearRegression(), TheirRegressor(), MLPRegressor, None, "model"])
def test_what_is_no_estimator_of_ours(foreign):
    with pytest.raises(TypeError, match="estimator must be a fitted MLPRegressor or MLPClassifier of fastadam, got"):
        to_onnx(foreign)


@pytest.mark.parametrize(("dtype", "name"), [("float16", "float16"), (int, "int64"), ("complex64", "complex64")])
def test_a_type_that_no_estimator_computes_in(dtype, name):
    with pytest.raises(TypeError, match=f"dtype must be float32 or float64, got {name}"):
        to_onnx(fitted("squared_error"), dtype=dtype)


def test_arrays_that_do_not_fit_together():
    estimator = fitted("squared_error")
    estimator.coefs_[1] = estimator.coefs_[1][:-1]
    with pytest.raises(ValueError, match=r"coefs_ and intercepts_ must have the shapes of a network with 6 features"):
        to_onnx(estimator)
    estimator = fitted("squared_error")
    estimator.intercepts_.pop()
    with pytest.raises(ValueError, match="coefs_ and intercepts_ must have the shapes"):
        to_onnx(estimator)


@pytest.mark.parametrize("activation", ["swish", ("relu",), ("relu", "swish")])
def test_activations_that_do_not_fit_the_layers(activation):
    estimator = fitted("squared_error").set_params(activation=activation)
    with pytest.raises(ValueError, match=r"activation must be one of .* as there are hidden layers, 2, got"):
        to_onnx(estimator)


def test_classes_that_no_tensor_can_hold():
    estimator = fitted(None, "two classes")
    estimator.classes_ = np.array([(1, 2), None], dtype=object)
    with pytest.raises(TypeError, match="classes must be numbers or text, got"):
        to_onnx(estimator)

"""Numbers at the ends of a type's range: a fit trains, warns, or ends in an error that names the argument."""

import re

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from fastadam import MLPClassifier, MLPRegressor
from fastadam.losses import loss_kernel

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 3))
Y = X[:, 0] ** 2
CLASSES = np.digitize(X[:, 0], [-0.4, 0.4])
SETTINGS = {"hidden_layer_sizes": (5,), "batch_size": 50, "random_state": 0, "learning_rate": "cosine", "max_iter": 3}
DTYPES = [np.float32, np.float64]


def regressor(**parameters):
    return MLPRegressor(**SETTINGS | parameters)


def classifier(**parameters):
    return MLPClassifier(**SETTINGS | parameters)


def bits_of(model):
    return [array.tobytes() for array in (*model.coefs_, *model.intercepts_)], model.loss_curve_


# --- chunks that lack classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, 2], ["a", "b", "c"]])
def test_partial_fit_takes_chunks_with_fewer_classes_whatever_warm_start_is(labels):
    y, some = np.array(labels)[CLASSES], CLASSES < 2
    models = [classifier(warm_start=warm_start) for warm_start in (False, True)]
    for model in models:
        model.partial_fit(X, y, classes=labels).partial_fit(X[some], y[some])
    assert models[1].t_ == len(X) + some.sum()
    assert bits_of(models[0]) == bits_of(models[1])
    with pytest.raises(ValueError, match="classes not in"):
        models[1].partial_fit(X[:3], np.array(["b", "c", "d"]) if y.dtype.kind == "U" else [1, 2, 3])


def test_a_warm_start_of_fit_wants_all_classes_as_scikit_learn_does():
    model = classifier(warm_start=True).fit(X, CLASSES)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        model.fit(X[CLASSES < 2], CLASSES[CLASSES < 2])


@pytest.mark.parametrize("warm_start", [False, True])
def test_partial_fit_takes_chunks_without_a_class_that_class_weight_names(warm_start):
    some = CLASSES < 2
    model = classifier(warm_start=warm_start, class_weight={0: 2.0, 2: 5.0}).partial_fit(X, CLASSES, classes=[0, 1, 2])
    other = classifier().partial_fit(X, CLASSES, np.array([2.0, 1.0, 5.0])[CLASSES], classes=[0, 1, 2])
    model.partial_fit(X[some], CLASSES[some])
    other.partial_fit(X[some], CLASSES[some], np.array([2.0, 1.0])[CLASSES[some]])
    assert bits_of(model) == bits_of(other)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [-1040, -93, 300, 1000])
def test_weights_of_any_scale_give_the_model_of_usual_ones(dtype, power):
    """All of them times a power of two changes no bit, if the penalty is that much stronger."""
    weight, alpha = RNG.uniform(0.5, 2, 200).astype(np.float32), 2.0**-10
    usual = regressor(alpha=alpha).fit(X.astype(dtype), Y, weight)
    for scaled, settings in ((power, {"alpha": 0.0}), (max(power, -900), {"alpha": alpha * 2.0 ** max(power, -900)})):
        model = regressor(**settings).fit(X.astype(dtype), Y, np.ldexp(np.float64(weight), scaled))
        right = usual if settings["alpha"] else regressor(alpha=0.0).fit(X.astype(dtype), Y, weight)
        if scaled > -1040:  # of denormal numbers, digits are lost
            assert bits_of(model) == bits_of(right)
        np.testing.assert_allclose(model.coefs_[0], right.coefs_[0], 1e-2)


@pytest.mark.parametrize("scale", [1e-300, 1e-28, 1e28, 1e300])
def test_class_weights_of_any_scale_give_the_model_of_usual_ones(scale):
    weights = {0: 1.0 * scale, 1: 2.0 * scale, 2: 0.5 * scale}
    model = classifier(alpha=0.0, class_weight=weights).fit(np.float32(X), CLASSES)
    right = classifier(alpha=0.0, class_weight={0: 1.0, 1: 2.0, 2: 0.5}).fit(np.float32(X), CLASSES)
    np.testing.assert_allclose(model.coefs_[0], right.coefs_[0], 1e-4)
    np.testing.assert_allclose(model.loss_, right.loss_, 1e-5)


def test_weights_beside_which_the_penalty_overflows_are_refused_by_name():
    model = regressor()
    with pytest.raises(ValueError, match=r"The cause may be alpha / sample_weight, with values of up to 1\.0e\+24"):
        model.fit(np.float32(X), Y, np.full(200, 1e-28))
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_whose_sum_overflows_are_refused(dtype):
    weight = np.full(200, 1e307)
    with pytest.raises(ValueError, match="sample_weight must have a finite sum, got weights of up to 1e"):
        regressor().fit(X.astype(dtype), Y, weight)
    with pytest.raises(ValueError, match="sample_weight_val must have a finite sum"):
        regressor().fit(X.astype(dtype), Y, X_val=X, y_val=Y, sample_weight_val=weight)
    with pytest.raises(ValueError, match="the product of class_weight and sample_weight must have a finite sum"):
        classifier(class_weight={0: 1e308}).fit(X.astype(dtype), CLASSES, np.full(200, 1e17))


def test_weights_that_leave_nothing_to_train_on_are_refused_or_warned_of():
    with pytest.raises(
        ValueError, match=r"class_weight=\{0: 0, 1: 0, 2: 0\} and sample_weight leave no weight but zero"
    ):
        classifier(class_weight={0: 0, 1: 0, 2: 0}).fit(X, CLASSES)
    with pytest.raises(ValueError, match="sample_weight_val must not sum to zero"):
        regressor().fit(X, Y, X_val=X, y_val=Y, sample_weight_val=np.resize([1.0, -1.0], 200))
    with pytest.warns(ConvergenceWarning, match="has not changed any of intercepts_"):
        regressor(shuffle=False).fit(X, Y, np.resize([1.0, -1.0], 200))


# --- targets and losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lion", "sgd"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_targets_whose_squared_error_overflows_are_refused_by_name(solver, early_stopping):
    model = regressor(solver=solver, early_stopping=early_stopping)
    with pytest.raises(ValueError, match=r"The cause may be y, with values of up to 1\.\de\+21"):
        model.fit(np.float32(X), Y * 1e20)
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_the_same_in_float64(solver):
    with pytest.raises(ValueError, match=r"The loss is (inf|nan) in float64.*The cause may be y"):
        regressor(solver=solver, learning_rate="constant").fit(X, Y * 1e200)


def test_targets_and_data_beyond_the_type_of_the_model_are_refused():
    for y in (Y * 1e300, np.longdouble(Y) * 1e300, np.column_stack([Y, Y * 1e60])):
        with pytest.raises(ValueError, match=r"y must be at most 3\.40282e\+38 in float32, got values of up to"):
            regressor().fit(np.float32(X), y)
    with pytest.raises(ValueError, match="y_val must be at most"):
        regressor().fit(np.float32(X), Y, X_val=np.float32(X), y_val=Y * 1e300)
    model = regressor().partial_fit(np.float32(X), Y)
    with pytest.raises(ValueError, match="X must be at most"):
        model.partial_fit(X * 1e300, Y)


def test_inputs_whose_gradient_has_no_square_are_refused_by_name():
    with pytest.raises(ValueError, match=r"a non-finite v of the gradient in float32.*The cause may be X"):
        classifier().fit(np.float32(X) * np.float32(1e30), CLASSES)
    with pytest.raises(ValueError, match=r"a non-finite v of the gradient in float64.*The cause may be alpha"):
        regressor(alpha=1e300).fit(X, Y)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_fit_that_diverges_after_its_best_epoch_says_so():
    model = regressor(early_stopping=True, learning_rate=lambda epoch: 1e300 if epoch else 1e-3)
    with (
        pytest.warns(ConvergenceWarning, match="not finite, in loss_curve_, validation_scores_"),
        np.errstate(all="ignore"),
    ):
        model.fit(X, Y)
    assert np.isfinite(model.coefs_[0]).all()
    assert np.isfinite(model.loss_curve_).tolist()[0]


@pytest.mark.parametrize(("z", "y"), [(-120.0, 1.0), (-80.0, 1e20), (80.0, 1e-20)])
def test_the_poisson_deviance_is_finite_where_the_ratio_of_target_and_prediction_is_not(z, y):
    Z, target, none = np.array([[z]], np.float32), np.array([[y]], np.float32), np.empty(0, np.float32)
    loss = loss_kernel("poisson")(Z, target, none, np.arange(1), 1.0, 0.0)
    np.testing.assert_allclose(loss, y * (np.log(y) - z) - y + np.exp(z), 1e-5)
    np.testing.assert_allclose(Z[0, 0], np.float32(np.exp(z)) - np.float32(y), 1e-5)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate_init", 1e-50), ("learning_rate_init", 1e50), ("epsilon", 1e-50), ("huber_delta", 1e-50)],
)
def test_parameters_that_float32_rounds_to_zero_or_infinity_are_refused_by_name(name, value):
    model = regressor(**{name: value}, loss="huber")
    message = f"{name} must be in [1.4e-45, 3.4e+38], the range of float32, got {value}"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(np.float32(X), Y)
    assert not hasattr(model, "coefs_")
    if name == "epsilon":
        assert model.set_params(solver="lion").fit(np.float32(X), Y).n_iter_ == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_last_step_that_leaves_a_model_without_finite_predictions_is_refused_by_name(dtype):
    rate = np.sqrt(float(np.finfo(dtype).max))
    with pytest.raises(ValueError, match=r"predictions are not finite.*The cause may be learning_rate_init"):
        regressor(learning_rate_init=rate, hidden_layer_sizes=(5, 5), batch_size=200).partial_fit(X.astype(dtype), Y)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("parameters", [{"learning_rate_init": 1e-44}, {"clip_norm": 1e-300}, {"epsilon": 1e38}])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_steps_too_small_to_change_anything_are_warned_of(parameters, method):
    with pytest.warns(ConvergenceWarning, match=r"has not changed any of intercepts_.*learning_rate_init="):
        getattr(regressor(**parameters), method)(np.float32(X), Y)


@pytest.mark.parametrize("parameters", [{"beta_1": 1 - 1e-9}, {"beta_2": 1 - 1e-9}, {"dropout": 1 - 2**-53}])
def test_parameters_that_float32_rounds_to_1_train(parameters):
    model = regressor(**parameters).fit(np.float32(X), Y)
    other = regressor(**parameters).fit(X, Y)
    np.testing.assert_allclose(model.coefs_[0], other.coefs_[0], 1e-4, 1e-6)
    np.testing.assert_allclose(model.loss_, other.loss_, 1e-5)

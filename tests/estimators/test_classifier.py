"""Behaviour of only the classifier: weights of classes, smoothed labels, scores by label and probability."""

import re

import numpy as np
import pytest
from sklearn import metrics

from tests.helpers.fits import X, X_val, arrays, classifier, labels, three, three_val, two, weights
from tests.helpers.naive import assert_same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("target", [two, three])
def test_class_weights_are_sample_weights(target, solver):
    kinds = np.unique(target)
    of_class = dict(zip(kinds.tolist(), [0.5, 2.0, 3.0], strict=False))
    by_sample = np.array([of_class[label] for label in target.tolist()])
    expected = classifier(solver=solver).fit(X, target, weights * by_sample)
    model = classifier(solver=solver, class_weight=of_class).fit(X, target, weights)
    for p, q in zip(arrays(model), arrays(expected), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)
    balanced = len(target) / (len(kinds) * np.array([(target == label).sum() for label in target]))
    expected = classifier().fit(X, target, balanced)
    np.testing.assert_allclose(classifier(class_weight="balanced").fit(X, target).loss_, expected.loss_, rtol=1e-12)


def test_class_weights_in_partial_fit():
    model = classifier(class_weight={"a": 2.0, "b": 1.0, "c": 1.0}).partial_fit(X, three, classes=["a", "b", "c"])
    assert hasattr(model, "coefs_")
    with pytest.raises(ValueError, match="class_weight='balanced' is not supported for partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, three, classes=["a", "b", "c"])


@pytest.mark.parametrize("target", [two, three, labels])
def test_label_smoothing_bounds_what_is_fitted(target):
    model = classifier(label_smoothing=0.3, solver="lbfgs", max_iter=3000, alpha=0, tol=1e-8, hidden_layer_sizes=40)
    p = model.fit(X[:20], target[:20]).predict_proba(X[:20])
    classes = 3 if target is three else 2
    high, low = 0.7 + 0.3 / classes, 0.3 / classes
    assert np.minimum(abs(p - high), abs(p - low)).max() < 1e-2


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_label_smoothing_of_nothing_is_nothing(solver):
    a, b = (classifier(solver=solver, **smoothing).fit(X, three) for smoothing in ({}, {"label_smoothing": 0.0}))
    for p, q in zip(arrays(a), arrays(b), strict=True):
        assert_same_bits(p, q)


def test_scoring_of_a_classifier_has_its_labels_and_probabilities():
    for scoring in ("roc_auc_ovr", "f1_macro", "neg_log_loss", "loss"):
        model = classifier(early_stopping=True, scoring=scoring).fit(X, three, X_val=X_val, y_val=three_val)
        score = model.validation_scores_[-1]
        assert np.isfinite(score)
    scorer = metrics.get_scorer("roc_auc_ovr")
    model = classifier(early_stopping=True, scoring="roc_auc_ovr").fit(X, three, X_val=X_val, y_val=three_val)
    assert model.best_validation_score_ == pytest.approx(scorer(model, X_val, three_val))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"label_smoothing": 1}, "The 'label_smoothing' parameter of MLPClassifier must be"),
        ({"class_weight": "even"}, "The 'class_weight' parameter of MLPClassifier must be"),
        ({"class_weight": [1, 2]}, "The 'class_weight' parameter of MLPClassifier must be"),
    ],
)
def test_bad_parameters_of_the_classifier(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier(**parameters).fit(X, three)


def test_classes_of_validation_data_that_are_not_trained_are_refused():
    with pytest.raises(ValueError, match="X_val, y_val or sample_weight_val: `y` has classes not in"):
        classifier().fit(X, three, X_val=X_val, y_val=np.where(three_val == "a", "z", three_val))

"""Data of a fit: weights, validation data, and the split for validation."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fastadam import MLPRegressor
from fastadam.estimators.data import checked_validation, checked_weights, kept_split, random_split, scaled
from fastadam.estimators.settings import settings_of
from fastadam.estimators.training import Progress


def test_usual_weights_are_kept_and_extreme_ones_scaled_by_a_power_of_two():
    usual = np.array([0.5, 2.0, 1e6])
    kept, scale = scaled("w", usual)
    assert kept is usual
    assert scale == 1.0
    for size in (1e-200, 1e200):
        weight, scale = scaled("w", np.array([1.0, 3.0]) * size)
        assert 0.5 <= weight.max() <= 1.0
        assert np.frexp(scale)[0] == 0.5  # a power of two
        np.testing.assert_array_equal(weight / scale, np.array([1.0, 3.0]) * size)


def test_weights_get_the_type_of_the_data():
    weight, scale = checked_weights("w", [1, 2, 3], np.zeros((3, 1), np.float32))
    assert (weight.dtype, scale) == (np.float32, 1.0)
    with pytest.raises(ValueError, match="w must have a finite sum"):
        checked_weights("w", [1e308, 1e308, 1.0], np.zeros((3, 1)))


def test_validation_data():
    def validate(X, y):
        return np.asarray(X, float), np.asarray(y, float)

    assert checked_validation((None, None, None), 1, validate) is None
    X, y, weight = checked_validation(([[1], [2]], [3, 4], [1, 2]), 1, validate)
    assert (X.shape, y.shape, weight.tolist()) == ((2, 1), (2, 1), [1.0, 2.0])
    with pytest.raises(ValueError, match="X_val, y_val or sample_weight_val: y has 1 outputs, but 2 are trained"):
        checked_validation(([[1], [2]], [3, 4], None), 2, validate)


@pytest.mark.parametrize(
    ("order", "held_out", "n_samples", "holds_out", "kept"),
    [
        (None, None, 5, False, False),  # nothing was fitted before
        ([4, 1, 0, 2, 3], None, 5, False, True),
        ([4, 1, 0, 2, 3], None, 6, False, False),
        ([4, 1, 0, 2, 3], None, 5, True, False),
        ([4, 1, 0], [2, 3], 5, True, True),
        ([4, 1, 0], [2, 3], 3, True, False),
        ([4, 1, 0], [2, 3], 5, False, False),
    ],
)
def test_a_split_is_kept_for_as_many_samples(order, held_out, n_samples, holds_out, kept):
    order, held_out = (None if indices is None else np.array(indices) for indices in (order, held_out))
    split = kept_split(Progress(order=order), held_out, n_samples, holds_out)
    assert (split is not None) == kept
    if kept:
        assert split[0] is order
        assert split[1] is held_out


def test_a_random_split_has_each_sample_once_and_is_scikit_learns():
    settings = settings_of(MLPRegressor(validation_fraction=0.25).get_params(), (100,))
    strata = np.arange(40) % 2
    training, held_out = random_split(settings, np.arange(40), strata, np.random.RandomState(3))
    expected = train_test_split(np.arange(40), test_size=0.25, random_state=np.random.RandomState(3), stratify=strata)
    np.testing.assert_array_equal(training, expected[0])
    np.testing.assert_array_equal(held_out, expected[1])
    assert sorted([*training, *held_out]) == list(range(40))
    assert strata[held_out].mean() == 0.5
    with pytest.raises(ValueError, match="The validation set is too small"):
        random_split(settings, np.arange(4), None, np.random.RandomState(3))

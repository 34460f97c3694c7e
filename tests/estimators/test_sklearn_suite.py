"""scikit-learn's own tests of its MLP, with both classes swapped for ours: its source is run as it is installed."""

from pathlib import Path

import pytest
import sklearn
from sklearn.neural_network.tests import test_mlp as sklearn_tests

import fastadam

READS_PRIVATE_ATTRIBUTES = {"test_gradient": "it calls _loss_grad_lbfgs"}
"""Tests that are not run, each with its reason."""

pytestmark = [
    pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="these are the tests of version 1.9"),
    *(
        pytest.mark.filterwarnings(f"default::{category}")  # their own configuration does not make them errors
        for category in ("sklearn.exceptions.ConvergenceWarning", "RuntimeWarning", "UserWarning")
    ),
]


@pytest.fixture
def global_random_seed():
    return 42


IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
SOURCE = Path(sklearn_tests.__file__).read_text()
SWAPPED = SOURCE.replace(IMPORT, "from fastadam import MLPClassifier, MLPRegressor\n")
exec(compile(SWAPPED, sklearn_tests.__file__, "exec"), globals())
for name in READS_PRIVATE_ATTRIBUTES:
    globals().pop(name)


def test_the_classes_are_swapped_and_nothing_is_missing():
    assert SOURCE.count(IMPORT) == 1
    assert (MLPClassifier, MLPRegressor) == (fastadam.MLPClassifier, fastadam.MLPRegressor)  # noqa: F821
    theirs = {name for name in vars(sklearn_tests) if name.startswith("test_")}
    assert theirs - READS_PRIVATE_ATTRIBUTES.keys() <= globals().keys()
    assert not READS_PRIVATE_ATTRIBUTES.keys() & globals().keys()

"""Description of the environment, and a warm-up that leaves nothing to compile."""

import platform

import numba
import numpy as np
import pytest

import fastadam
from fastadam import environment
from fastadam.cpu import cache
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.cpu.target import TARGET


def test_info_has_the_versions_that_are_imported():
    described = environment.info()
    assert described["fastadam"] == fastadam.__version__
    assert described["numpy"] == np.__version__
    assert described["numba"] == numba.__version__
    assert described["python"] == platform.python_version()
    assert TARGET.name in described["CPU"]
    assert all(isinstance(text, str) and text for text in described.values())


def test_a_package_that_is_missing_is_named_so(monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGES", ("a-package-that-nobody-has",))
    assert environment.info()["a-package-that-nobody-has"] == "not installed"


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_after_a_warmup_fits_and_steps_compile_nothing(monkeypatch):
    assert environment.warmup() > 0
    compiled = []
    monkeypatch.setattr(cache, "on_compiling", [lambda: compiled.append(True)])
    X = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    fastadam.MLPRegressor(hidden_layer_sizes=(7, 5), max_iter=2).fit(X, X[:, 0]).predict(X)
    fastadam.MLPClassifier(hidden_layer_sizes=6, max_iter=2).fit(X, np.arange(50) % 3).predict(X)
    fastadam.AdamW(p := np.ones(5)).step(np.ones_like(p))
    assert compiled == []

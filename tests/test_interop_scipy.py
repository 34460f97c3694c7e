import inspect
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from naive import assert_same_bits
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, OptimizeWarning, minimize, rosen, rosen_der

import fastadam
from fastadam import Adam, optimizers
from fastadam.interop import scipy as interop
from fastadam.interop.scipy import adam

STARTS = [[-1.2, 1.0], [2.0, 2.0], [5.0, -5.0], [0.5, 0.25, 2.0]]
SCHEMES = ["2-point", "3-point", "cs"]


def rosen_and_der(x):
    return rosen(x), rosen_der(x)


def optimizer_of(name):
    """The class whose name this is in small letters."""
    return next(rule for rule in vars(optimizers).values() if getattr(rule, "__name__", "").lower() == name)


def minimized(fun=rosen, x0=(-1.2, 1.0), *, jac=rosen_der, bounds=None, callback=None, args=(), tol=None, **options):
    return minimize(
        fun, x0, args, method=adam, jac=jac, bounds=bounds, callback=callback, tol=tol, options={"lr": 0.05} | options
    )


def bowl(x, centre=0.0):
    return float(((x - centre) ** 2).sum())


def bowl_der(x, centre=0.0):
    return 2 * (x - centre)


# It converges, and by Adam's own steps


@pytest.mark.parametrize("x0", STARTS)
def test_rosenbrock_converges(x0):
    result = minimized(x0=x0)
    assert (result.success, result.status) == (True, 0)
    assert np.abs(rosen_der(result.x)).max() <= 1e-5
    np.testing.assert_allclose(result.x, 1, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1}, {"betas": (0.5, 0.75), "eps": 1e-3}, {"weight_decay": 0.1, "amsgrad": True}],
    ids=str,
)
def test_the_iterates_are_the_bits_of_a_loop_of_steps(options):
    iterates = []
    result = minimized(x0=[2.0, -1.0, 0.5], callback=iterates.append, maxiter=50, **options)
    x = np.array([2.0, -1.0, 0.5])
    optimizer = Adam(x, **({"lr": 0.05} | options))
    for iterate in iterates:
        optimizer.step(rosen_der(x))
        assert_same_bits(iterate, x)
    assert len(iterates) == 50
    assert_same_bits(result.x, x)


def test_without_a_rate_it_is_the_optimizers_own():
    x = np.array([2.0, 2.0])
    Adam(x).step(rosen_der(x))
    result = minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, options={"maxiter": 1})
    assert_same_bits(result.x, x)


def test_a_schedule_gives_the_rate_of_each_step_from_zero():
    steps = []

    def schedule(t):
        steps.append(t)
        return 0.1 / (1 + t)

    result = minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, options={"schedule": schedule, "maxiter": 4})
    x = np.array([2.0, 2.0])
    optimizer = Adam(x)
    for t in range(4):
        optimizer.lr = 0.1 / (1 + t)
        optimizer.step(rosen_der(x))
    assert steps == [0, 1, 2, 3]
    assert_same_bits(result.x, x)


def test_a_method_is_made_of_any_optimizer():
    class Descent:
        """Has a rate and a step, as all of ours."""

        def __init__(self, params, lr=0.25, maximize=False, momentum=0.0):
            self.params, self.lr, self.momentum = params, lr, momentum

        def step(self, grads):
            self.params -= self.lr * grads

    descent = interop.minimizer(Descent)
    result = minimize(bowl, [4.0, -8.0], jac=bowl_der, method=descent, options={"maxiter": 2, "momentum": 0.5})
    np.testing.assert_array_equal(result.x, [1.0, -2.0])
    assert descent.__name__ == "descent"
    assert {"lr", "momentum"} == interop._keywords(Descent)
    with pytest.warns(OptimizeWarning, match="maximize"):
        minimize(bowl, [4.0], jac=bowl_der, method=descent, options={"maximize": True})


def test_a_method_can_be_pickled():
    assert pickle.loads(pickle.dumps(adam)) is adam


# Gradients


def test_every_form_of_gradient_leads_to_the_same_place():
    by_callable = minimized()
    by_pair = minimized(rosen_and_der, jac=True)
    assert_same_bits(by_pair.x, by_callable.x)
    assert (by_pair.nit, by_pair.nfev, by_pair.njev) == (by_callable.nit, by_callable.nfev, by_callable.njev)
    by_difference = minimized(jac=None, maxiter=200)
    exactly = minimized(maxiter=200)
    np.testing.assert_allclose(by_difference.x, exactly.x, rtol=1e-4)
    for jac in (False, "2-point"):
        assert_same_bits(minimized(jac=jac, maxiter=200).x, by_difference.x)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_finite_differences_are_scipys(scheme):
    def fun(x):
        return (np.exp(x) - x**3).sum()

    exactly = minimized(fun, [0.5, -0.5], jac=lambda x: np.exp(x) - 3 * x**2, maxiter=10)
    by_option = minimized(fun, [0.5, -0.5], jac=None, finite_diff_method=scheme, maxiter=10)
    np.testing.assert_allclose(by_option.x, exactly.x, rtol=1e-6)
    direct = adam(fun, [0.5, -0.5], jac=scheme, lr=0.05, maxiter=10)
    assert_same_bits(direct.x, by_option.x)
    coarse = minimized(fun, [0.5, -0.5], jac=None, finite_diff_method=scheme, finite_diff_rel_step=1e-2, maxiter=10)
    assert np.abs(coarse.x - exactly.x).max() > np.abs(by_option.x - exactly.x).max()


@pytest.mark.parametrize(("scheme", "calls"), [("2-point", 4), ("3-point", 7), ("cs", 4)])
def test_the_counts_are_those_of_the_calls(scheme, calls):
    counted = []

    def fun(x):
        counted.append(x)
        return (x**2).sum()

    result = minimized(fun, [1.0, 2.0, 3.0], jac=None, finite_diff_method=scheme, maxiter=5)
    assert result.nit == 5
    assert result.njev == 6
    assert result.nfev == len(counted) == 6 * calls


def test_a_pair_is_computed_once_a_point():
    points = []

    def fun(x):
        points.append(x)
        return rosen_and_der(x)

    result = minimized(fun, jac=True, maxiter=7)
    assert (result.nit, result.nfev, result.njev, len(points)) == (7, 8, 8, 8)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "convert",
    [list, tuple, lambda g: read_only(g.copy()), lambda g: np.repeat(g, 2)[::2], lambda g: g.astype(">f8")],
    ids=["list", "tuple", "read-only", "strided", "byte order"],
)
def test_a_gradient_may_be_any_array_of_real_numbers(convert):
    assert_same_bits(minimized(jac=lambda x: convert(rosen_der(x)), maxiter=20).x, minimized(maxiter=20).x)


@pytest.mark.parametrize("convert", [lambda g: g.astype(np.float32), lambda g: g.astype(int), np.longdouble])
def test_a_gradient_of_another_precision_is_taken_in_float64(convert):
    result = minimized(jac=lambda x: convert(rosen_der(x)), maxiter=20)
    assert result.x.dtype == result.jac.dtype == np.float64


def test_a_gradient_in_the_memory_of_its_argument_is_taken():
    result = minimized(lambda x: bowl(x) / 2, [1.0, 2.0], jac=lambda x: x, maxiter=20)
    assert_same_bits(result.x, minimized(lambda x: bowl(x) / 2, [1.0, 2.0], jac=np.copy, maxiter=20).x)


def test_functions_that_write_into_their_argument_change_nothing():
    def fun(x):
        value = rosen(x)
        x[:] = math.nan
        return value

    def jac(x):
        gradient = rosen_der(x)
        x[:] = math.nan
        return gradient

    def callback(x):
        x[:] = math.nan

    assert_same_bits(minimized(fun, jac=jac, callback=callback, maxiter=20).x, minimized(maxiter=20).x)


BAD_GRADIENTS = {
    "too long": (np.ones(3), ValueError),
    "too short": (np.ones(1), ValueError),
    "a number": (1.0, ValueError),
    "a row": (np.ones((1, 2)), ValueError),
    "a column": (np.ones((2, 1)), ValueError),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError),
    "empty": ([], ValueError),
    "None": (None, TypeError),
    "Nones": ([None, None], TypeError),
    "text": (["1", "2"], TypeError),
    "complex": (np.ones(2, complex), TypeError),
}


@pytest.mark.parametrize(("gradient", "error"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_bad_gradients_are_refused_by_name(gradient, error):
    with pytest.raises(error, match="jac must"):
        minimized(jac=lambda x: gradient)
    with pytest.raises(error, match="jac must"):
        minimized(lambda x: (1.0, gradient), jac=True)


@pytest.mark.parametrize(
    ("value", "error"),
    [(None, TypeError), ("1", TypeError), (1j, TypeError), (np.ones(2), ValueError), ([[1], [1, 2]], ValueError)],
)
def test_a_fun_that_returns_no_number_is_refused_by_name(value, error):
    for jac in (rosen_der, None):
        with pytest.raises(error, match="fun must return"):
            minimized(lambda x: value, jac=jac)


@pytest.mark.parametrize("convert", [np.float32, np.array, lambda f: np.array([[f]]), Fraction, int])
def test_a_fun_may_return_any_form_of_a_number(convert):
    result = minimized(lambda x: convert(rosen(x)), maxiter=3)
    assert type(result.fun) is float


def test_a_gradient_of_one_variable_may_be_a_number():
    result = minimized(lambda x: (x[0] - 3) ** 2, 0.0, jac=lambda x: 2 * (x[0] - 3))
    np.testing.assert_allclose(result.x, [3], atol=1e-5)


# Starts and arguments


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=6),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f8", "i4", "u1", "?", "g"]),
)
@example(values=[1.0], dtype="f8")
def test_any_real_start_is_taken_and_left_alone(values, dtype):
    x0 = np.abs(values).astype(dtype)
    before = x0.copy()
    result = minimized(bowl, x0, jac=bowl_der, maxiter=3)
    assert result.x.shape == result.jac.shape == x0.shape
    assert result.x.dtype == np.float64
    assert (x0 == before).all()
    x = x0.astype(float)
    optimizer = Adam(x, lr=0.05)
    for _ in range(result.nit):
        optimizer.step(2 * x)
    assert_same_bits(result.x, x)


@given(shape=st.lists(st.integers(0, 3), max_size=3).map(tuple))
def test_a_start_of_any_shape_is_raveled_or_refused_as_minimize_does(shape):
    x0 = np.ones(shape)
    result = adam(bowl, x0, jac=bowl_der, maxiter=3)
    assert result.x.shape == (x0.size,)
    if len(shape) > 1:
        with pytest.raises(ValueError, match="x0"):
            minimized(bowl, x0, jac=bowl_der)


@pytest.mark.parametrize("x0", [["a"], [None], [1j], [[1], [1, 2]], None])
def test_a_start_that_is_no_array_of_numbers_is_refused_by_name(x0):
    with pytest.raises((TypeError, ValueError), match="x0 must"):
        adam(rosen, x0, jac=rosen_der)


@pytest.mark.parametrize("args", [(3.0,), 3.0])
@pytest.mark.parametrize("jac", [bowl_der, None])
def test_args_go_to_fun_and_jac(args, jac):
    result = minimized(bowl, [0.0, 0.0], jac=jac, args=args)
    np.testing.assert_allclose(result.x, 3, atol=1e-4)
    assert_same_bits(adam(bowl, [0.0, 0.0], args, jac=jac, lr=0.05).x, result.x)


def test_no_variables_are_at_their_minimum():
    for jac in (bowl_der, None):
        result = minimized(bowl, [], jac=jac)
        assert (result.success, result.nit, result.fun, result.x.size) == (True, 0, 0.0, 0)


# Bounds


@pytest.mark.parametrize("jac", [rosen_der, None])
@pytest.mark.parametrize("bounds", [[(None, None), (None, 0.5)], Bounds(-np.inf, [np.inf, 0.5]), [(-9, 9), (-9, 0.5)]])
def test_a_bound_that_is_active_at_the_solution(jac, bounds):
    result = minimized(jac=jac, bounds=bounds)
    peer = minimize(rosen, [-1.2, 1.0], jac=rosen_der, bounds=bounds, method="L-BFGS-B", options={"ftol": 0})
    assert result.success
    assert result.x[1] == 0.5
    np.testing.assert_allclose(result.x, peer.x, atol=1e-5)


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_fun_is_never_evaluated_beyond_the_bounds(scheme):
    def fun(x):
        assert (np.real(x) >= [0, 1]).all()
        assert (np.real(x) <= [2, 1.5]).all()
        return (x**2).sum()

    jac, options = (bowl_der, {}) if scheme is None else (None, {"finite_diff_method": scheme})
    result = minimized(fun, [9.0, -9.0], jac=jac, bounds=[(0, 2), (1, 1.5)], **options)
    assert result.success
    np.testing.assert_allclose(result.x, [0, 1], atol=1e-5)


@pytest.mark.parametrize("jac", [bowl_der, None])
def test_equal_bounds_fix_a_variable(jac):
    result = minimized(bowl, [0.0, 0.0, 0.0], jac=jac, args=(3.0,), bounds=[(0, 9), (1, 1), (0, 9)])
    assert result.success
    np.testing.assert_allclose(result.x, [3, 1, 3], atol=1e-4)
    assert result.x[1] == 1
    fixed = minimized(bowl, [0.0, 0.0], jac=jac, bounds=[(1, 1), (2, 2)])
    assert (fixed.success, fixed.nit, fixed.fun) == (True, 0, 5.0)


@given(x=st.floats(-1e10, 1e10), below=st.floats(0, 10), above=st.floats(0, 10), slope=st.floats(-10, 10).filter(bool))
def test_the_projected_gradient_is_how_far_a_step_against_it_can_go(x, below, above, slope):
    box = interop._Box.of([(x - below, x + above)], 1)
    room = x - box.lower[0] if slope > 0 else box.upper[0] - x
    point = interop._Point(np.array([x]), 0.0, np.array([slope]))
    assert box.projected_gradient(point) == min(abs(slope), room)


BAD_BOUNDS = {
    "crossed": ([(0, 1), (1, 0)], ValueError, "An upper bound is less"),
    "crossed Bounds": (Bounds(1, 0), ValueError, "An upper bound is less"),
    "too many": ([(0, 1)] * 3, ValueError, "The number of bounds"),
    "too long Bounds": (Bounds([0, 0, 0], 1), ValueError, "The number of bounds"),
    "none": ([], ValueError, "The number of bounds"),
    "triples": ([(0, 1, 2)] * 2, ValueError, "bounds must be"),
    "numbers": ([0, 1], ValueError, "bounds must be"),
    "a number": (1, ValueError, "bounds must be"),
    "text": (["ab", "cd"], TypeError, "bounds must be"),
    "NaN": ([(0, math.nan), (0, 1)], ValueError, "bounds must not be NaN"),
    "Bounds of None": (Bounds([None, 0], 1), TypeError, "bounds.lb must be"),
}


@pytest.mark.parametrize(("bounds", "error", "message"), BAD_BOUNDS.values(), ids=BAD_BOUNDS)
def test_bad_bounds_are_refused(bounds, error, message):
    with pytest.raises(error, match=message):
        minimized(bounds=bounds)


@pytest.mark.parametrize("bounds", [[(0, 1), (1, 0)], [(0, 1)] * 3, Bounds(1, 0)])
def test_what_we_say_of_bad_bounds_scipy_says(bounds):
    errors = []
    for method in ("L-BFGS-B", adam):
        with pytest.raises(ValueError) as error:  # noqa: PT011  (compared below)
            minimize(rosen, [0.0, 0.0], jac=rosen_der, bounds=bounds, method=method)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


# Callbacks


def test_both_styles_of_callback_are_told_of_each_iteration():
    by_x, by_result = [], []

    def modern(intermediate_result):
        assert isinstance(intermediate_result, OptimizeResult)
        by_result.append((intermediate_result.x, intermediate_result.fun))

    last = minimized(callback=by_x.append, maxiter=5)
    minimized(callback=modern, maxiter=5)
    assert len(by_x) == len(by_result) == 5
    for x, (result_x, fun) in zip(by_x, by_result, strict=True):
        assert_same_bits(x, result_x)
        assert fun == rosen(x)
    assert_same_bits(by_x[-1], last.x)


def test_stop_iteration_ends_as_scipy_ends():
    def callback(xk):
        seen.append(xk)
        if len(seen) == 3:
            raise StopIteration

    seen = []
    result = minimized(callback=callback)
    assert (result.nit, result.status, result.success) == (3, 99, False)
    assert_same_bits(result.x, seen[-1])
    seen = []
    peer = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method="L-BFGS-B", callback=callback)
    assert (result.status, result.success, result.message) == (peer.status, peer.success, peer.message)


def test_other_errors_pass_through_and_other_answers_are_ignored():
    assert minimized(callback=lambda x: True, maxiter=4).nit == 4
    for function in ("fun", "jac", "callback"):
        with pytest.raises(ZeroDivisionError):
            minimized(**{function: lambda x: 1 / 0})


def test_a_callback_that_is_no_function_is_refused_by_name():
    with pytest.raises(TypeError, match="callback must"):
        minimized(callback=3)


# How it ends


def test_the_result_has_scipys_fields():
    result = minimized(maxiter=30)
    peer = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method="BFGS", options={"maxiter": 3})
    assert set(peer) - {"hess_inv"} <= set(result)
    assert (result.success, result.status, result.message) == (peer.success, peer.status, peer.message)
    assert {name: type(result[name]) for name in ("nit", "nfev", "njev", "status", "success", "fun")} == {
        "nit": int, "nfev": int, "njev": int, "status": int, "success": bool, "fun": float,
    }  # fmt: skip
    assert result.fun == rosen(result.x)
    assert_same_bits(result.jac, rosen_der(result.x))
    assert (result.nit, result.nfev, result.njev) == (30, 31, 31)


def test_the_best_point_is_kept_beside_the_last():
    values = [1.0]
    result = minimized(bowl, [1.0], jac=bowl_der, lr=0.3, maxiter=9, callback=lambda x: values.append(bowl(x)))
    assert result.best_fun == min(values) < result.fun == values[-1]
    assert bowl(result.best_x) == result.best_fun


def test_a_start_at_the_minimum_takes_no_step():
    result = minimized(x0=[1.0, 1.0])
    assert (result.success, result.nit, result.nfev, result.njev) == (True, 0, 1, 1)


def test_no_iterations():
    result = minimized(maxiter=0)
    assert (result.success, result.status, result.nit, result.nfev) == (False, 1, 0, 1)
    assert_same_bits(result.x, np.array([-1.2, 1.0]))


def test_maxfun_ends_before_the_iteration_that_would_pass_it():
    result = minimized(maxfun=10)
    assert (result.success, result.status, result.nfev) == (False, 1, 10)
    assert "function evaluations" in result.message
    assert minimized(jac=None, maxfun=10).nfev == 12


def test_tol_is_gtol_unless_that_is_given():
    assert minimized(tol=1e-2).nit == minimized(gtol=1e-2).nit < minimized().nit
    assert minimized(tol=1e-2, gtol=1e-5).nit == minimized().nit


def test_ftol_ends_it_at_a_small_change():
    result = minimized(bowl, [5.0], jac=bowl_der, args=(100.0,), ftol=1e-4, lr=1e-3)
    assert (result.success, result.nit) == (True, 1)
    assert "ftol" in result.message
    for off in (0, None):
        assert minimized(lambda x: 1.0, ftol=off, maxiter=9).nit == 9


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["fun", "jac"])
def test_a_value_that_is_not_finite_ends_it_at_the_last_point_before(bad, where):
    def fun(x):
        return bad if where == "fun" and x[0] < 0.5 else bowl(x)

    def jac(x):
        return np.array([bad]) if where == "jac" and x[0] < 0.5 else bowl_der(x)

    result = minimized(fun, [1.0], jac=jac)
    assert (result.success, result.status) == (False, 3)
    assert 0.5 <= result.x[0] < 0.55
    assert result.fun == bowl(result.x)
    assert_same_bits(result.jac, bowl_der(result.x))
    assert (result.nfev, result.njev) == (result.nit + 2, result.nit + 1 + (where == "jac"))


@pytest.mark.parametrize(
    ("fun", "jac", "x0"),
    [(lambda x: math.nan, bowl_der, 1.0), (bowl, lambda x: x * math.inf, 1.0), (bowl, bowl_der, math.inf)],
    ids=["fun", "jac", "x0"],
)
def test_a_start_that_is_not_finite_ends_it_at_once(fun, jac, x0):
    result = minimized(fun, [x0], jac=jac)
    assert (result.success, result.status, result.nit) == (False, 3, 0)
    assert_same_bits(result.x, np.array([x0]))


def test_a_rate_that_overflows_ends_it_at_the_last_finite_point():
    def fun(x):
        assert np.isfinite(x).all()
        return float(x[0])

    result = minimized(fun, [-1e308], jac=lambda x: [1.0], lr=1.5e308, maxiter=5)
    assert (result.success, result.status, result.nit) == (False, 3, 0)
    assert_same_bits(result.x, np.array([-1e308]))


def test_disp_prints_what_scipys_methods_print(capsys):
    minimized()
    assert not capsys.readouterr().out
    result = minimized(disp=True)
    lines = capsys.readouterr().out.splitlines()
    minimize(rosen, [-1.2, 1.0], jac=rosen_der, method="BFGS", options={"disp": True})
    peer_lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [line.split(":")[0] for line in peer_lines[1:]]
    assert lines[0] == result.message
    assert str(result.nit) in lines[2]


# Options and what is not used


def test_what_is_not_used_is_warned_of_as_by_scipy():
    unused = {
        "hess": lambda x: np.eye(2),
        "hessp": lambda x, p: p,
        "constraints": LinearConstraint([1, 1], 0, 1),
    }
    for name, value in unused.items():
        messages = []
        for method in ("L-BFGS-B", adam):
            with pytest.warns(RuntimeWarning) as warned:
                minimize(rosen, [1.0, 1.0], jac=rosen_der, method=method, **{name: value})
            (warning,) = warned
            assert warning.filename == __file__
            messages.append(str(warning.message))
        assert messages[0].replace("L-BFGS-B", "adam") == messages[1]


@pytest.mark.parametrize("constraints", [None, (), []])
def test_no_constraints_are_not_warned_of(constraints):
    assert minimize(rosen, [1.0, 1.0], jac=rosen_der, method=adam, constraints=constraints).success


@given(st.dictionaries(st.sampled_from(["maxls", "return_all", "maximize", "params", "self"]), st.none(), min_size=1))
def test_unknown_options_are_warned_of_as_by_scipy(options):
    with pytest.warns(OptimizeWarning, match="Unknown solver options: ") as warned:
        result = minimized(**options)
    (warning,) = warned
    assert str(warning.message) == f"Unknown solver options: {', '.join(sorted(options))}"
    assert warning.filename == __file__
    assert result.success


NUMBERS = ["gtol", "ftol", "maxiter", "maxfun"]


@given(
    name=st.sampled_from([*NUMBERS, "lr", "eps", "weight_decay"]),
    value=st.one_of(
        st.floats(max_value=-1e-300), st.just(math.nan), st.text(max_size=2), st.booleans(), st.binary(max_size=2),
        st.lists(st.floats(), max_size=2), st.complex_numbers(),
    ),
)  # fmt: skip
def test_bad_numbers_are_refused_by_name_before_fun_is_called(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        minimized(lambda x: pytest.fail("called"), **{name: value})


@pytest.mark.parametrize("value", [-1, "a", math.nan])
def test_a_bad_tol_is_refused_by_name(value):
    with pytest.raises((TypeError, ValueError), match="tol must be"):
        minimized(tol=value)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [10, 10.0, np.int64(10), np.float32(10), Fraction(10)])
def test_numbers_may_be_of_any_type(name, value):
    assert minimized(**{"maxiter": 20, name: value}).nit <= 20


def an_array_of_no_dimensions(value):
    return np.array(value)


@pytest.mark.parametrize("convert", [an_array_of_no_dimensions, np.float64, np.float32])
def test_a_number_may_be_a_scalar_of_numpys(convert):
    for name, value in {"maxiter": 9, "maxfun": 9, "gtol": 0.5, "ftol": 0.5, "lr": 0.5, "eps": 0.5}.items():
        ours, peer = (minimized(**{"maxiter": 20, name: number}) for number in (convert(value), value))
        assert_same_bits(ours.x, peer.x)
    assert minimized(tol=convert(0.5)).nit == minimized(tol=0.5).nit
    rate = minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, options={"schedule": lambda t: convert(0.5)})
    assert rate.nit == minimized(x0=[2.0, 2.0], lr=0.5).nit


OPTIONS = {name: sorted(interop._keywords(optimizer_of(name))) for name in interop.__all__ if name != "minimizer"}
NONES = ["schedule", "maxiter", "maxfun", "gtol", "ftol", "disp", "finite_diff_method", "finite_diff_rel_step"]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_none_has_its_default_as_in_scipy(name):
    method = getattr(interop, name)
    default = minimize(bowl, [0.5], method=method, tol=0.99)
    assert 0 < default.nit < 100
    for nones in ([*NONES, *OPTIONS[name]], *([option] for option in (*NONES, *OPTIONS[name]))):
        result = minimize(bowl, [0.5], method=method, tol=0.99, options=dict.fromkeys(nones))
        assert_same_bits(result.x, default.x)
        assert (result.nit, result.nfev, result.message) == (default.nit, default.nfev, default.message)


def test_limits_that_are_none_are_the_default_ones():
    assert minimized(tol=None).nit == minimized().nit
    result = minimized(bowl, [1.0], jac=bowl_der, lr=1e-9, maxiter=None, maxfun=None)
    assert (result.status, result.nit) == (1, 15_000)
    for method, option in (("BFGS", "maxiter"), ("CG", "maxiter"), ("Nelder-Mead", "maxfev"), ("TNC", "maxfun")):
        jac = None if method == "Nelder-Mead" else bowl_der
        assert minimize(bowl, [1.0], jac=jac, method=method, options={option: None}).nit > 0  # as these take it


def test_a_rate_that_is_none_leaves_it_to_the_schedule():
    schedules = [{"schedule": lambda t: 0.1, "lr": None}, {"schedule": None, "lr": 0.1}]
    one, other = (minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, options=options) for options in schedules)
    assert_same_bits(one.x, other.x)


BAD_OPTIONS = {
    "schedule that is a number": ({"schedule": 0.1}, TypeError, "schedule must"),
    "rate and schedule": ({"schedule": lambda t: 0.1, "lr": 0.1}, ValueError, "lr and schedule"),
    "schedule that gives a bad rate": ({"schedule": lambda t: -1.0}, ValueError, "lr must"),
    "schedule that gives no rate": ({"schedule": lambda t: None}, TypeError, "lr must"),
    "betas": ({"betas": (0.9, 1.0)}, ValueError, "betas"),
    "scheme": ({"finite_diff_method": "4-point"}, ValueError, "finite_diff_method must"),
    "scheme that is no text": ({"finite_diff_method": 2}, ValueError, "finite_diff_method must"),
    "relative step that is not finite": ({"finite_diff_rel_step": math.nan}, ValueError, "finite_diff_rel_step must"),
    "disp that is neither true nor false": ({"disp": np.ones(2)}, ValueError, "ambiguous"),
    "relative steps of another shape": ({"finite_diff_rel_step": [1e-8] * 3}, ValueError, "finite_diff_rel_step must"),
    "relative step that is no number": ({"finite_diff_rel_step": "a"}, TypeError, "finite_diff_rel_step must"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        minimize(rosen, [2.0, 2.0], method=adam, options=options)


@pytest.mark.parametrize("name", sorted(set(interop.__all__) - {"minimizer"}))
def test_each_method_documents_the_options_that_it_takes(name):
    method = getattr(interop, name)
    options = set(inspect.signature(method).parameters) - {"options"} | interop._keywords(optimizer_of(name))
    assert method.__name__ == name
    assert [option for option in options if option not in method.__doc__] == []


# The rest of the family

RATES = {"sgd": 1e-3, "rmsprop": 1e-3, "lion": 1e-3}
FAMILY = sorted(set(interop.__all__) - {"minimizer"})


@pytest.mark.parametrize("name", FAMILY)
def test_every_method_steps_with_its_own_optimizer(name):
    rule, lr = optimizer_of(name), RATES.get(name, 0.1)
    x = np.array([1.2, 1.0])
    optimizer = rule(x, lr=lr, max_norm=10.0)
    for _ in range(50):
        optimizer.step(rosen_der(x))
    options = {"lr": lr, "max_norm": 10.0, "maxiter": 50}
    result = minimize(rosen, [1.2, 1.0], jac=rosen_der, method=getattr(interop, name), options=options)
    assert_same_bits(result.x, x)
    assert result.nit == 50


def test_a_rule_of_ones_own_is_a_method_too():
    halved = fastadam.optimizer(lambda p, g, lr: p - 0.5 * lr * g, lr=0.1)
    result = minimize(bowl, [3.0, -1.0], jac=bowl_der, method=interop.minimizer(halved), options={"lr": 0.5})
    assert result.success
    np.testing.assert_allclose(result.x, 0, atol=1e-5)

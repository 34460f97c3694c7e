"""Whether the quick tests are sharp: one fault at a time is put into a copy of the package, and tests run on it.

    python -m tests.mutants            # all, half a minute each and more, since every fault has kernels of its own
    python -m tests.mutants 3 7        # some of them, by their numbers

Each fault is caught if the tests named beside it fail, by the cases that `make test` chooses of them. A fault whose
text is no longer in the package is an error: give it its new text.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A line of the package, the fault in its place, and the files of tests that should catch it."""

    module: str
    line: str
    fault: str
    tests: str


MUTANTS = [
    Mutant("formulas/rules", 'descent."""\n    return p - lr * g', 'descent."""\n    return p + lr * g',
           "optimizers/test_sgd"),
    Mutant("formulas/rules", "v_max = max(v, v_max)", "v_max = v", "formulas/test_rules"),
    Mutant("formulas/step", "gi = -extra[CLIP] if gi < -extra[CLIP]", "gi = extra[CLIP] if gi < -extra[CLIP]",
           "formulas/test_step"),
    Mutant("formulas/storage", "bits == 0 and x > 0", "bits == 0 and x < 0", "formulas/test_storage"),
    Mutant("formulas/storage", "np.uint32(bits + np.uint32(0x7FFF) + odd)", "np.uint32(bits + np.uint32(0x8000))",
           "formulas/test_storage"),
    Mutant("formulas/losses", "t(1) if error > t(0) else t(-1)", "t(1) if error >= t(0) else t(-1)",
           "formulas/test_losses"),
    Mutant("formulas/losses", "return s * (size - t(0.5) * s), s if error > s", "return s * (size - s), s if error > s",
           "cpu/test_losses"),
    Mutant("cpu/engine", "(slice_ + 1) * rows // slices", "((slice_ + 1) * rows - 1) // slices", "cpu/test_network"),
    Mutant("cpu/engine", "settings[TOTAL_WEIGHT] = weight", "settings[TOTAL_WEIGHT] = stop - start",
           "cpu/test_network"),
    Mutant("cpu/update", "for slice_ in range(1, slices):", "for slice_ in range(2, slices):", "cpu/test_update"),
    Mutant("cpu/team", "if load(control, _PHASE) != phase:", "if phase < 0:", "cpu/test_team"),
    Mutant("cpu/team", "if last >> 8 < result >> 8:", "if True:", "cpu/test_team"),
    Mutant("cpu/team", "taking_part = self.control[_TAKE_PART]\n",
           "taking_part = self.control[_TAKE_PART]; bell.clear()\n",
           "cpu/test_team"),
    Mutant("cpu/network", "out[j] += D[i, j]", "out[j] = D[i, j]", "cpu/test_network"),
    Mutant("estimators/training", "not loss > progress.best_loss - tol", "not loss > progress.best_loss",
           "estimators/test_training"),
    Mutant("estimators/training", "epochs_without_improvement > plan.n_iter_no_change",
           "epochs_without_improvement >= plan.n_iter_no_change", "estimators/test_training"),
    Mutant("_files", "        new.replace(path)\n", "        path.write_bytes(new.read_bytes())\n", "test_files"),
    Mutant("estimators/checkpoint", "with replacing(self.path, sync=True) as file:",
           'with self.path.open("wb") as file:', "estimators/test_checkpoint"),
    Mutant("estimators/fit_state", 'seen[indices] = True', "seen[:] = True", "estimators/test_fit_state"),
    Mutant("cpu/cache", "codegen.magic_tuple(), TARGET, _settings()", "codegen.magic_tuple(), TARGET",
           "cpu/test_cache"),
    Mutant("cpu/cache", "and _SOURCES.are_as_imported()", "", "cpu/test_cache"),
    Mutant("estimators/base", 'derived += ["coefs_", "intercepts_", "_views", "_layout"]', "pass",
           "estimators/test_base estimators/test_persistence"),
    Mutant("estimators/solvers", "weight_decay=e.alpha", "weight_decay=0.0", "estimators/test_solvers"),
]  # fmt: skip


def is_caught(mutant: Mutant) -> bool:
    """Whether the tests fail on a copy of the package with the fault in it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fastadam", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        source = Path(folder) / "fastadam" / f"{mutant.module}.py"
        text = source.read_text(encoding="utf-8")
        assert text.count(mutant.line) >= 1, f"{mutant.module} has no {mutant.line!r}"
        source.write_text(text.replace(mutant.line, mutant.fault), encoding="utf-8")
        tests = [f"tests/{name}.py" for name in mutant.tests.split()]
        environment = os.environ | {"PYTHONPATH": folder, "NUMBA_CACHE_DIR": f"{folder}/cache"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout[-2000:]
        return done.returncode == 1


def main() -> None:
    """Try the faults whose numbers are given, or all."""
    chosen = list(map(int, sys.argv[1:])) or range(len(MUTANTS))
    missed = 0
    for number in chosen:
        began, mutant = time.monotonic(), MUTANTS[number]
        caught = is_caught(mutant)
        missed += not caught
        seconds = time.monotonic() - began
        verdict = "caught" if caught else "MISSED"
        print(f"{number:2} {verdict} {seconds:4.0f} s  {mutant.module}: {mutant.fault.strip()!r}", flush=True)
    sys.exit(f"{missed} of {len(chosen)} were missed" if missed else 0)


if __name__ == "__main__":
    main()

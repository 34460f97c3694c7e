"""Machine code of the kernels, compiled without a GPU: registers, loads, spills. See `make test-cuda`."""

import re
from collections import Counter

import pytest
from numba import cuda
from numba.cuda import types

from fastadam.cuda import allocation, gradients, kernels, layers, losses, step
from fastadam.cuda.chunk import UNROLL, Pass
from fastadam.cuda.jit import THREADS
from fastadam.formulas import rules
from fastadam.formulas.activations import ACTIVATIONS
from fastadam.formulas.losses import LOSSES
from fastadam.formulas.step import StepSpec
from fastadam.formulas.storage import CODE_BLOCK
from tests.helpers.machine_code import ARCHITECTURES, compiled

RULES = [rule for rule in vars(rules).values() if isinstance(rule, rules.Rule) and rule is not rules.KEEP]
"""All rules but the one that changes no parameter, of which the compiler drops loads and stores."""
EVERYTHING = {"decay": "coupled", "maximize": True, "scale": True, "clip": True, "ema": True, "zero_grad": True}
OPTIONS = {
    "plain": {},
    "decoupled": {"decay": "decoupled", "scale": True},
    "everything": EVERYTHING,
    "sums": {"sums": True, "scale": True},
    "copy": {"copy": "bfloat16"},
    "copy16": {"copy": "float16"},
}
FORMS = [Pass(StepSpec(rule), dtype) for rule in RULES for dtype in ("float32", "float64")]
FORMS += [Pass(StepSpec(rules.ADAM, **OPTIONS[name])) for name in OPTIONS if name != "plain"]
FORMS += [Pass(StepSpec(rules.AMSGRAD, **EVERYTHING), dtype) for dtype in ("float32", "float64")]

# Numbers in fewer bytes: how the state, the gradients and the parameters, whose copy they are, are stored.
STORED = {
    "bfloat16 state": {"state": "bfloat16"},
    "float16": {"grad": "float16", "copy": "float16", "scale": True},
    "bfloat16": {"grad": "bfloat16", "copy": "bfloat16", "scale": True},
    "all bfloat16": {"state": "bfloat16", "grad": "bfloat16", "copy": "bfloat16"},
    "all bfloat16, everything": {"state": "bfloat16", "grad": "bfloat16", "copy": "bfloat16", **EVERYTHING},
    "bfloat16, sums": {"state": "bfloat16", "grad": "bfloat16", "copy": "bfloat16", "sums": True, "scale": True},
    "uint8 state": {"state": "uint8"},
    "uint8 state, everything": {"state": "uint8", "grad": "bfloat16", "copy": "bfloat16", **EVERYTHING},
}
FORMS += [Pass(StepSpec(rules.ADAM, **options)) for options in STORED.values()]
FORMS += [Pass(StepSpec(rules.AMSGRAD, **options)) for name, options in STORED.items() if "everything" in name]
FORMS += [Pass(StepSpec(rule, state="bfloat16")) for rule in (rules.MOMENTUM, rules.ADADELTA, rules.NADAM)]

STEP = (types.int64,) * 8


def most_registers(form):
    """Bound the registers of a thread.

    With 128, a multiprocessor of 65,536 registers holds two blocks of 256 threads, and with more only one: too few
    bytes in flight to hide the latency of memory. Codes need more registers, and have fewer bytes to wait for.
    """
    return 96 if form.dtype == "float32" and form.spec.state != "uint8" else 128


DOUBLE = r"D(ADD|MUL|FMA|SETP|MNMX)\b.*|F2F.*F64.*|MUFU\.\w*64H.*"


def name_of(form):
    return f"{form.spec}-{form.dtype}"


@pytest.fixture(scope="module")
def table():
    rows = []
    yield rows
    width = max((len(row[0]) for row in rows), default=0)
    print(f"\n{'kernel':{width}}  architecture  registers  stack  spills  loads of 128 bits  stores of 128 bits")
    for name, architecture, code in sorted(rows, key=lambda row: row[:2]):
        loads, stores = code.count(r"LDG\.E\.128.*"), code.count(r"STG\.E\.128.*")
        print(
            f"{name:{width}}  {architecture:12}  {code.registers:9}  {code.stack:5}  {code.spills:6}"
            f"  {loads:17}  {stores:18}"
        )


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_step_in_machine_code(form, architecture, table):
    code = compiled(step.step_kernel(form), STEP, architecture)
    table.append((name_of(form), architecture, code))
    assert (code.stack, code.spills) == (0, 0)
    slots = len(form.spec.rule.states) * form.chunk // CODE_BLOCK if form.spec.state == "uint8" else 0
    assert code.shared <= 4 * slots + 1024 * bool(slots)  # of which sm_90a keeps the last for itself
    assert code.registers <= most_registers(form)
    assert_wide(code, form)
    if form.dtype == "float32":
        assert code.count(DOUBLE) == 0


def assert_wide(code, form):
    """Check that a whole chunk is loaded and stored in vectors of four elements, and every load precedes any store."""
    loads, stores = moved(form)
    operations = [name.removesuffix(".CONSTANT") for name in code.operations()]
    for bits, suffix in ((128, ".128"), (64, ".64"), (32, "")):  # entries of the table are loaded by 64 bits besides
        assert operations.count(f"LDG.E{suffix}") >= loads[bits], (bits, loads)
        assert operations.count(f"STG.E{suffix}") >= stores[bits], (bits, stores)
    wide = [name for name in operations if name in ("LDG.E.128", "STG.E.128")]
    first_store, summed = wide.index("STG.E.128"), form.spec.sums  # those are loaded in a loop of their own
    assert wide[:first_store].count("LDG.E.128") >= loads[128]
    assert summed or wide[first_store:].count("LDG.E.128") % loads[128] == 0  # none, or those of another chunk
    assert wide.count("STG.E.128") % stores[128] == 0


def moved(form):
    """Count the vectors of a whole chunk that a thread loads, and that it stores, by their bits."""
    spec, itemsize = form.spec, {"": 4, "float16": 2, "bfloat16": 2, "uint8": 1}
    gradient = 32 * itemsize[spec.grad]
    rows = [32 * itemsize[spec.state]] * len(spec.rule.states) + [128] * spec.ema
    loads = Counter([128, gradient, *rows] * UNROLL)
    copies = [64] * bool(spec.copy)
    stores = Counter([128, *rows, *copies, *[gradient] * spec.zero_grad] * UNROLL)
    return loads, stores


def has_exact_division(code):
    """Tell whether divisions are correctly rounded: they check for the cases that the fast way gets wrong."""
    return code.count(r"FCHK") > 0


def has_exact_roots(code):
    """Tell whether roots are correctly rounded: an estimate of the reciprocal root, which is then corrected."""
    return code.count(r"MUFU\.RSQ") > 0 and code.count(r"MUFU\.SQRT") == 0


@pytest.mark.parametrize("rule", [rules.ADAM, rules.RMSPROP_CENTERED, rules.ADADELTA], ids=lambda rule: rule.name)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_roots_and_divisions_are_those_of_ieee(rule, architecture):
    kernel = step.step_kernel(Pass(StepSpec(rule)))
    exact = compiled(kernel, STEP, architecture)
    assert has_exact_division(exact)
    assert has_exact_roots(exact)
    quick = compiled(kernel, STEP, architecture, fastmath=True)
    assert not (has_exact_division(quick) and has_exact_roots(quick))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_other_kernels_neither_spill_nor_use_the_stack(architecture, table):
    forms = [("float32", ""), ("float64", ""), ("float32", "bfloat16"), ("float32", "float16")]
    kernels = {
        f"norm-{stored or dtype}-{rows}": (
            gradients.norm_kernel(dtype, stored or dtype, rows > 1, Pass(StepSpec(rules.SGD), dtype).chunk),
            6,
        )
        for dtype, stored in forms
        for rows in (1, 2)
    }
    kernels |= {
        f"advance-{rule.name}": (step.advance_kernel(rule, "float32", True), 8)
        for rule in (rules.ADAM, rules.NADAM, rules.RADAM)
    }
    kernels |= {f"copy-{form}": (allocation.copy_kernel("float32", form), 3) for form in ("float16", "bfloat16")}
    kernels |= {f"copy-from-{form}": (allocation.copy_kernel(form, "float32"), 3) for form in ("float16", "bfloat16")}
    for name, (kernel, arguments) in kernels.items():
        code = compiled(kernel, (types.int64,) * arguments, architecture)
        table.append((name, architecture, code))
        assert (code.stack, code.spills) == (0, 0), name
        assert code.registers <= 96
        assert code.shared <= 2 * 8 * THREADS + 1024
        if name.startswith("norm"):
            operations = code.operations()
            wide = "LDG.E.64" if "float16" in name else "LDG.E.128"
            assert operations.count(wide) >= UNROLL
            if name.endswith("-1") and wide == "LDG.E.128":  # all vectors of a chunk are on their way at once
                first = operations.index(wide)
                last = [k for k, operation in enumerate(operations) if operation == wide][UNROLL - 1]
                assert not any(operation.startswith("D") for operation in operations[first:last])
    fill = compiled(allocation.fill_kernel("float32"), (types.int64, types.int64, types.float64), architecture)
    copy = compiled(allocation.copy_kernel("float64", "float64"), (types.int64,) * 3, architecture)
    assert fill.stack == fill.spills == copy.stack == copy.spills == 0


NETWORK = {
    "begin": (layers.begin_kernel("float32"), 9),
    "gather": (layers.gather_kernel("float32"), 6),
    **{f"gather-sparse-{index}": (layers.gather_sparse_kernel("float32", index), 8) for index in ("int32", "int64")},
    "penalize": (layers.penalize_kernel("float32", 2048), 4),
    **{f"activate-{name}": (layers.activate_kernel(name, "float32"), 7) for name in ACTIVATIONS},
    **{f"backward-{name}": (layers.backward_kernel(name, "float32"), 7) for name in ACTIVATIONS},
    **{f"activate-{name}-drops": (layers.activate_kernel(name, "float32", True), 7) for name in ("relu", "gelu")},
    **{f"backward-{name}-drops": (layers.backward_kernel(name, "float32", True), 7) for name in ("relu", "gelu")},
    **{f"loss-{name}": (losses.loss_kernel(name, "float32"), 9) for name in LOSSES},
    "loss-multinomial-float64": (losses.loss_kernel("multinomial", "float64"), 9),
    "activate-mish-drops-float64": (layers.activate_kernel("mish", "float64", True), 7),
    "backward-mish-drops-float64": (layers.backward_kernel("mish", "float64", True), 7),
}


@pytest.mark.parametrize("name", NETWORK)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_of_the_network(name, architecture, table):
    made, arguments = NETWORK[name]
    code = compiled(made, (types.int64,) * arguments, architecture)
    table.append((name, architecture, code))
    assert (code.stack, code.spills) == (0, 0)
    assert code.registers <= 96
    assert code.shared <= 2 * 8 * THREADS + 8 * THREADS + 1024
    if name.startswith(("activate", "gather")) and not name.endswith("float64"):  # others add up in float64
        assert code.count(DOUBLE) == 0
    if name == "loss-multinomial":
        assert code.count("MUFU.EX2") > 0  # the exponential is that of float32, and so is the logarithm
        assert code.count(DOUBLE) < 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_accounting_of_a_batch(architecture):
    code = compiled(layers.account_kernel(), (types.int64,) * 8, architecture)
    assert (code.stack, code.spills) == (0, 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_kernel_of_the_users_own(architecture, table):
    @cuda.jit
    def own(p, g, m, v, t, lr):
        scalars = kernels.adam_scalars(p, t, lr, 0.9, 0.999, 1e-8)
        for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
            kernels.adam_update(i, p, g, m, v, scalars)

    code = compiled(own, (*[types.float32[::1]] * 4, types.int64, types.float64), architecture)
    table.append(("adam_update in a kernel of one's own", architecture, code))
    assert (code.stack, code.spills) == (0, 0)
    loop = code.operations()[code.operations().index("FCHK") :]  # float64 comes before the loop
    assert not any(re.fullmatch(DOUBLE, name) for name in loop[: loop.index("BRA")])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_kernel_that_spills_is_seen_to_spill(architecture):
    """Negative control: the same kernel with too few registers."""
    kernel = step.step_kernel(Pass(StepSpec(rules.AMSGRAD)))
    code = compiled(kernel, STEP, architecture, max_registers=24)
    assert code.registers <= 24
    assert code.spills > 0
    assert code.stack > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_in_a_float32_kernel_is_seen(architecture):
    """Negative control: one Python number among float32s."""

    @cuda.jit
    def careless(p):
        i = cuda.grid(1)
        p[i] = p[i] * 0.1

    assert compiled(careless, (types.float32[::1],), architecture).count(DOUBLE) > 0

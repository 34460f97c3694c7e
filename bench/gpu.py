"""Steps and fits on a GPU: `python -m bench.gpu NAME` writes `bench/results/gpu-NAME.json`.

Times are measured by the clock of the device, with events around many steps, in turns with PyTorch; the median turn is
reported. The parts run in the order of their importance; those that would start after nine minutes are skipped with a
message.

Each part runs in a separate process, and records each figure immediately. An error of the device, after which a process
cannot continue, or a hang therefore affects a single part only.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastadam
from fastadam import MLPRegressor
from fastadam.cuda import is_available
from fastadam.optimizers.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastadam.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from fastadam.optimizers.lion import Lion
from fastadam.optimizers.sgd import SGD

try:
    import cupy
    from numba import cuda
except Exception:  # asv also imports this file on machines without them
    cupy = cuda = None
try:
    import torch
except ImportError:
    torch = None

SECONDS = 540
SIZES = [100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000]
RULES = {
    "sgd": (SGD, {}), "momentum": (SGD, {"momentum": 0.9}), "rmsprop": (RMSprop, {}), "adagrad": (Adagrad, {}),
    "adadelta": (Adadelta, {}), "adam": (Adam, {}), "amsgrad": (Adam, {"amsgrad": True}), "adamw": (AdamW, {}),
    "adamax": (Adamax, {}), "nadam": (NAdam, {}), "radam": (RAdam, {}), "lion": (Lion, {}),
    "adam, state in bfloat16": (Adam, {"state_dtype": "bfloat16"}),
    "adam, state in uint8": (Adam, {"state_dtype": "uint8"}),
    "adam, copy in bfloat16": (Adam, {"copy_dtype": "bfloat16"}),
    "adam, clipped by norm": (Adam, {"max_norm": 1.0}),
}  # fmt: skip
HALVES = {
    "adam, float16": {}, "adam, float16, state in bfloat16": {"state_dtype": "bfloat16"},
}  # fmt: skip
"""Options of Adam with two-byte parameters."""
# Units of each layer, and samples per step.
FITS = {
    "small": ((20, 100, 1), 200),
    "mid": ((50, 256, 256, 1), 256),
    "wide": ((100, 1024, 1024, 1), 512),
    "wider": ((100, 4096, 4096, 1), 2048),
}
N_SAMPLES, EPOCHS = 20_480, 5

Work = Callable[[], object]


class Clock:
    """Countdown of the available time."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._end - time.monotonic()

    def allows(self, what: str, seconds: float = 5.0) -> bool:
        """Return True if there is time for a part, and print a message otherwise."""
        if self.left > seconds:
            return True
        print(f"skipped for lack of time: {what}", flush=True)
        return False


def device_seconds(work: Work, repeats: int, turns: int = 7) -> float:
    """Return the seconds per call on the device, in the median turn of `repeats` calls."""
    return median(_turn(work, repeats) for _ in range(turns))


def _turn(work: Work, repeats: int) -> float:
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    work()
    cupy.cuda.Device().synchronize()
    start.record()
    for _ in range(repeats):
        work()
    stop.record()
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop) / 1e3 / repeats


def in_turns(works: dict[str, Work], repeats: int, turns: int = 7) -> dict[str, float]:
    """Return the seconds per call of several functions, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for k in range(turns):
        for name in list(works)[:: 1 if k % 2 else -1]:
            times[name].append(_turn(works[name], repeats))
    return {name: median(values) for name, values in times.items()}


def repeats_for(size: int) -> int:
    return max(5, min(200, 200_000_000 // size))


def copy_bandwidth() -> float:
    """Return the bytes per second read and written by a copy on the device, in the best turn, beyond any cache."""
    source = cupy.ones(256 * 1024 * 1024, np.float32)
    target = cupy.empty_like(source)
    best = min(_turn(lambda: cupy.copyto(target, source), 10) for _ in range(5))
    return 2 * source.nbytes / best


def bytes_a_parameter(optimizer: Any, options: dict[str, Any], itemsize: int) -> float:
    """Count the bytes read (parameter, gradient and states) and written (parameter, copy and states)."""
    states = [row for name, row in optimizer.state.items() if name != "master"]
    size = next(iter(optimizer.state.values())).size if states else 1
    copy = 2 * (itemsize == 2 or optimizer.copies is not None)
    gradient = itemsize * (2 if "max_norm" in options else 1)
    return 8 + gradient + copy + 2 * sum(row.size * row.dtype.itemsize for row in states) / size


def steps(record: "Record", clock: Clock) -> None:
    """Measure the fraction of the copy's bandwidth that a step of each rule reaches at each size."""
    bandwidth = copy_bandwidth()
    record.add({"copy_bytes_a_second": bandwidth})
    kinds = [(name, of, options, np.float32) for name, (of, options) in RULES.items()]
    kinds += [(name, Adam, options, np.float16) for name, options in HALVES.items()]
    for size in SIZES[::-1]:  # large sizes are the most informative
        for name, of, options, dtype in kinds:
            if clock.allows(f"{name} at {size:,}"):
                record.guarded({"rule": name, "size": size}, partial(_step, of, options, dtype, size, bandwidth))
                _free()


def _step(of: Any, options: dict[str, Any], dtype: Any, size: int, bandwidth: float) -> dict[str, float]:
    p, g = cupy.ones(size, dtype), cupy.full(size, 1e-3, dtype)
    optimizer = of(p, **options)
    seconds = device_seconds(partial(optimizer.step, g), repeats_for(size))
    part = bytes_a_parameter(optimizer, options, np.dtype(dtype).itemsize) * size / seconds / bandwidth
    return {"seconds": seconds, "of_copy_bandwidth": part}


def beside_pytorch(record: "Record", clock: Clock) -> None:
    """Compare Adam with PyTorch's fused Adam, launched from Python and captured in graphs."""
    for size in SIZES[::-1]:
        if torch is not None and clock.allows(f"PyTorch at {size:,}", 15):
            record.guarded({"size": size}, partial(_beside_pytorch, size))
            _free()


def _beside_pytorch(size: int) -> dict[str, Any]:
    p, g = cupy.ones(size, np.float32), cupy.full(size, 1e-3, np.float32)
    ours, repeats = Adam(p), repeats_for(size)
    works: dict[str, Work] = {"ours": lambda: ours.step(g)}
    for name, options in {"fused": {"fused": True}, "capturable": {"fused": True, "capturable": True}}.items():
        theirs = torch.nn.Parameter(torch.ones(size, device="cuda"))
        theirs.grad = torch.full_like(theirs, 1e-3)
        works[name] = torch.optim.Adam([theirs], **options).step
    # Both launch on the legacy default stream, so that the events cover both.
    times = in_turns(works, repeats)
    graphs = {"ours": _captured(works["ours"]), "capturable": _captured_by_torch(works["capturable"])}
    replayed = in_turns(graphs, repeats)
    return {
        "seconds": times, "seconds_in_graphs": replayed,
        "ours_over_fused": times["ours"] / times["fused"],
        "ours_over_capturable": times["ours"] / times["capturable"],
        "ours_over_capturable_in_graphs": replayed["ours"] / replayed["capturable"],
    }  # fmt: skip


def _captured(work: Work) -> Work:
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()  # the stream does not wait for other streams
    with stream:
        work()
        stream.begin_capture()
        work()
        graph = stream.end_capture()
    stream.synchronize()
    return lambda: graph.launch(stream=cupy.cuda.Stream.null)


def _captured_by_torch(work: Work) -> Work:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def launch_microseconds(record: "Record", clock: Clock) -> None:
    """Measure the microseconds of Python for a step of 1,000 parameters, which takes less time on the device."""
    p, g = cupy.ones(1000, np.float32), cupy.ones(1000, np.float32)
    many, many_g = ([cupy.ones(1000, np.float32) for _ in range(100)] for _ in range(2))
    works: dict[str, Work] = {
        "ours": partial(Adam(p).step, g),
        "ours, clipped by norm": partial(Adam(p.copy(), max_norm=1.0).step, g),
        "ours, 100 arrays": partial(Adam(many).step, many_g),
    }
    if torch is not None:
        theirs = torch.nn.Parameter(torch.ones(1000, device="cuda"))
        theirs.grad = torch.ones_like(theirs)
        works["PyTorch, fused"] = torch.optim.Adam([theirs], fused=True).step
    for name, work in works.items():
        if clock.allows(name):
            record.guarded({"step": name}, partial(_host_microseconds, work))


def _host_microseconds(work: Work) -> dict[str, float]:
    turns = []
    for _ in range(20):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        for _ in range(50):  # fits in the queue, so launching does not wait
            work()
        turns.append((time.perf_counter() - start) / 50)
    return {"microseconds": median(turns[1:]) * 1e6}


# --- fits -------------------------------------------------------------------------------------------------------------


def fits(case: str, record: "Record", clock: Clock) -> None:
    """Measure the seconds per epoch of both libraries with data on the device, without compilation."""
    units, batch = FITS[case]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_SAMPLES, units[0])).astype(np.float32)
    y = np.tanh(X[:, :10]).sum(axis=1).astype(np.float32)
    kinds = {"ours, cuda": (_our_epoch, "cuda")}
    if torch is not None:
        kinds |= {"PyTorch, graphed": (_their_epoch, "graphed"), "PyTorch, eager": (_their_epoch, "eager")}
    kinds |= {"ours, cpu": (_our_epoch, "cpu")}
    if torch is not None:
        kinds |= {"PyTorch, compiled": (_their_epoch, "compiled")}
    for name, (epoch, kind) in kinds.items():
        if clock.allows(f"{name}, {case}", 20):
            about = {"case": case, "units": units, "batch": batch, "contender": name}
            record.guarded(about, partial(epoch, kind, X, y, units, batch))
            _free()


def _our_epoch(device: str, X: Any, y: Any, units: tuple[int, ...], batch: int) -> dict[str, float]:
    times: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPRegressor(units[1:-1], batch_size=batch, max_iter=1, random_state=0, device=device, warm_start=True)
        model.fit(X, y)
        for epochs in (1, 1 + EPOCHS):  # the difference excludes copies of the data and compilation
            start = time.perf_counter()
            model.set_params(max_iter=epochs).fit(X, y)
            times.append(time.perf_counter() - start)
    return {"seconds_an_epoch": (times[1] - times[0]) / EPOCHS}


def _their_epoch(kind: str, X: Any, y: Any, units: tuple[int, ...], batch: int) -> dict[str, float]:
    layers: list[Any] = []
    for k, (fan_in, fan_out) in enumerate(pairwise(units)):
        layers += [torch.nn.Linear(fan_in, fan_out)] + [torch.nn.ReLU()] * (k < len(units) - 2)
    model = torch.nn.Sequential(*layers).cuda()
    optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=True)
    all_X, all_y = torch.tensor(X, device="cuda"), torch.tensor(y, device="cuda")[:, None]
    batch_X, batch_y = torch.empty(batch, units[0], device="cuda"), torch.empty(batch, 1, device="cuda")

    def loss_of(inputs: Any, targets: Any) -> Any:
        penalty = sum((layer.weight**2).sum() for layer in model if hasattr(layer, "weight"))
        return 0.5 * torch.nn.functional.mse_loss(model(inputs), targets) + 0.5e-4 * penalty / batch

    compute = torch.compile(loss_of) if kind == "compiled" else loss_of

    def step() -> None:
        optimizer.zero_grad(set_to_none=kind != "graphed")
        compute(batch_X, batch_y).backward()
        optimizer.step()

    launch: Work = _captured_training(step) if kind == "graphed" else step

    def epoch() -> None:
        order = torch.randperm(N_SAMPLES, device="cuda")
        for start in range(0, N_SAMPLES, batch):
            rows = order[start : start + batch]
            torch.index_select(all_X, 0, rows, out=batch_X)
            torch.index_select(all_y, 0, rows, out=batch_y)
            launch()
        torch.cuda.synchronize()

    epoch()
    start = time.perf_counter()
    for _ in range(EPOCHS):
        epoch()
    return {"seconds_an_epoch": (time.perf_counter() - start) / EPOCHS}


def _captured_training(step: Callable[[], None]) -> Work:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


# --- running all parts ------------------------------------------------------------------------------------------------


def _free() -> None:
    cupy.get_default_memory_pool().free_all_blocks()
    cuda.current_context().deallocations.clear()
    if torch is not None:
        torch.cuda.empty_cache()


def machine() -> dict[str, Any]:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.mem", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    versions = {"fastadam": fastadam.__version__, "numpy": np.__version__, "cupy": cupy.__version__}
    if torch is not None:
        versions["torch"] = torch.__version__
    return {
        "gpu": properties["name"].decode(), "driver": driver, "python": platform.python_version(),
        "multiprocessors": properties["multiProcessorCount"], "versions": versions,
    }  # fmt: skip


class Record:
    """Results of a part, in the common file, which is rewritten with each figure."""

    def __init__(self, path: Path, part: str) -> None:
        self._path, self._part = path, part

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of results to the file."""
        results = json.loads(self._path.read_text()) if self._path.exists() else {}
        results.setdefault(self._part, []).append(row)
        written = self._path.with_suffix(".part")
        written.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(written, self._path)  # the file is never incomplete
        print(self._part, row, flush=True)

    def guarded(self, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Measure and record the result or the error; the next figure is measured in both cases."""
        try:
            found = measure()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        self.add(about | found)


PARTS: dict[str, Callable[[Record, Clock], None]] = {
    "beside_pytorch": beside_pytorch,
    "steps": steps,
    **{f"fits, {case}": partial(fits, case) for case in ("mid", "wide", "small", "wider")},
    "launch_microseconds": launch_microseconds,
}
LONGEST = {"beside_pytorch": 120.0, "steps": 150.0, "launch_microseconds": 30.0}
"""Time limit of a part in seconds; 100 for the others."""


def run_parts(
    path: Path, command: list[str], parts: Iterable[str] = tuple(PARTS), seconds: float = SECONDS, grace: float = 30.0
) -> None:
    """Run each part in a separate process, and record the ones that failed."""
    clock, failures = Clock(seconds), Record(path, "failed")
    for part in parts:
        if not clock.allows(part, min(20.0, seconds / 2)):
            failures.add({"part": part, "why": "skipped for lack of time"})
            continue
        longest = min(LONGEST.get(part, 100.0), clock.left)
        try:
            # A part ends by itself within its time limit; one that hangs is killed.
            ended = subprocess.run([*command, part, str(longest)], check=False, timeout=longest + grace)
            if ended.returncode:
                failures.add({"part": part, "why": f"ended with {ended.returncode}"})
        except subprocess.TimeoutExpired:
            failures.add({"part": part, "why": "hung"})


def summary(results: dict[str, Any]) -> str:
    """Format the tables for the documentation."""
    lines = ["| parameters | rule | µs | fraction of the copy's bandwidth |", "| --- | --- | --- | --- |"]
    for row in results.get("steps", []):
        if "seconds" in row:
            lines += [
                f"| {row['size']:,} | {row['rule']} | {row['seconds'] * 1e6:.1f} | {row['of_copy_bandwidth']:.3f} |"
            ]
    lines += ["", "| parameters | over PyTorch fused | over capturable | both in graphs |", "| --- | --- | --- | --- |"]
    for row in results.get("beside_pytorch", []):
        if "seconds" in row:
            ratios = [row[f"ours_over_{name}"] for name in ("fused", "capturable", "capturable_in_graphs")]
            lines += [f"| {row['size']:,} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"]
    lines += ["", "| network | contender | s per epoch |", "| --- | --- | --- |"]
    for case in FITS:
        for row in results.get(f"fits, {case}", []):
            if "seconds_an_epoch" in row:
                lines += [f"| {case} | {row['contender']} | {row['seconds_an_epoch']:.4f} |"]
    return "\n".join(lines)


def main(name: str) -> None:
    """Run all parts, and print the summary."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise SystemExit(f"NAME must consist of letters, digits, '.', '_' and '-', got {name!r}")
    if cupy is None or not is_available():
        raise SystemExit("this benchmark requires a GPU, its driver, and the extra `cuda`")
    path = Path(__file__).parent / "results" / f"gpu-{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    Record(path, "machine").add(machine())
    run_parts(path, [sys.executable, "-m", "bench.gpu", name])
    print(summary(json.loads(path.read_text())))
    print(f"written: {path}")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    elif len(sys.argv) == 4:  # as `run_parts` calls it
        own = Path(__file__).parent / "results" / f"gpu-{sys.argv[1]}.json"
        PARTS[sys.argv[2]](Record(own, sys.argv[2]), Clock(float(sys.argv[3])))
    else:
        raise SystemExit("usage: python -m bench.gpu NAME")

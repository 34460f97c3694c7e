"""What a GPU makes of the steps and the fits: `python -m bench.gpu NAME` writes `bench/results/gpu-NAME.json`.

Times are of the device's own clock, events around many steps, in turns with the peer's; the median turn counts. The
parts are done in the order of their weight, and what would begin after nine minutes is left out, and said so.
"""

import json
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastadam
from fastadam import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, MLPRegressor, NAdam, RAdam, RMSprop
from fastadam.cuda import is_available

try:
    import cupy
    from numba import cuda
except Exception:  # asv reads this file as well, where there is neither
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
}  # fmt: skip
# Units of each layer, samples of a step.
FITS = {
    "small": ((20, 100, 1), 200),
    "mid": ((50, 256, 256, 1), 256),
    "wide": ((100, 1024, 1024, 1), 512),
    "wider": ((100, 4096, 4096, 1), 2048),
}
N_SAMPLES, EPOCHS = 20_480, 5

Work = Callable[[], object]


class Clock:
    """What is left of the time."""

    def __init__(self) -> None:
        self._end = time.monotonic() + SECONDS

    def allows(self, what: str, seconds: float = 5.0) -> bool:
        """Whether there is time for a part; if not, says so."""
        if time.monotonic() + seconds < self._end:
            return True
        print(f"left out, for want of time: {what}", flush=True)
        return False


def device_seconds(work: Work, repeats: int, turns: int = 7) -> float:
    """Seconds of one call on the device, in the median turn of so many calls."""
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
    """The same of several, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for k in range(turns):
        for name in list(works)[:: 1 if k % 2 else -1]:
            times[name].append(_turn(works[name], repeats))
    return {name: median(values) for name, values in times.items()}


def repeats_for(size: int) -> int:
    return max(5, min(200, 200_000_000 // size))


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device: the best turn, of what no cache holds."""
    source = cupy.ones(256 * 1024 * 1024, np.float32)
    target = cupy.empty_like(source)
    best = min(_turn(lambda: cupy.copyto(target, source), 10) for _ in range(5))
    return 2 * source.nbytes / best


def bytes_a_parameter(optimizer: Any) -> int:
    """Parameter, gradient and states read; parameter and states written."""
    return 4 * (3 + 2 * len(optimizer.state))


def step_rates(clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    """Of each rule at each size, the part of the copy's bandwidth that a step reaches."""
    results = []
    for size in SIZES:
        for name, (of, options) in RULES.items():
            if size == SIZES[-1] and name not in ("sgd", "adam", "amsgrad", "lion"):
                continue
            if not clock.allows(f"{name} at {size:,}"):
                continue
            try:
                p, g = cupy.ones(size, np.float32), cupy.full(size, 1e-3, np.float32)
                optimizer = of(p, **options)
            except (MemoryError, cupy.cuda.memory.OutOfMemoryError):
                print(f"left out, for want of memory: {name} at {size:,}")
                continue
            seconds = device_seconds(partial(optimizer.step, g), repeats_for(size))
            part = bytes_a_parameter(optimizer) * size / seconds / bandwidth
            results.append({"rule": name, "size": size, "seconds": seconds, "of_copy_bandwidth": part})
            print(f"{name:10} {size:13,}  {seconds * 1e6:10.1f} us  {part:.3f} of the copy", flush=True)
            del p, g, optimizer
            _free()
    return results


def beside_pytorch(clock: Clock) -> list[dict[str, Any]]:
    """Adam beside PyTorch's fused one, launched by Python; and both captured in graphs."""
    results = []
    for size in SIZES:
        if torch is None or not clock.allows(f"PyTorch at {size:,}", 15):
            continue
        try:
            results.append(_beside_pytorch(size))
        except (MemoryError, torch.cuda.OutOfMemoryError, cupy.cuda.memory.OutOfMemoryError):
            print(f"left out, for want of memory: PyTorch at {size:,}")
            continue
        finally:
            _free()
        print(results[-1], flush=True)
    return results


def _beside_pytorch(size: int) -> dict[str, Any]:
    p, g = cupy.ones(size, np.float32), cupy.full(size, 1e-3, np.float32)
    ours, repeats = Adam(p), repeats_for(size)
    works: dict[str, Work] = {"ours": lambda: ours.step(g)}
    for name, options in {"fused": {"fused": True}, "capturable": {"fused": True, "capturable": True}}.items():
        theirs = torch.nn.Parameter(torch.ones(size, device="cuda"))
        theirs.grad = torch.full_like(theirs, 1e-3)
        works[name] = torch.optim.Adam([theirs], **options).step
    # PyTorch launches on the legacy default stream, and so do we, so that the events see both.
    times = in_turns(works, repeats)
    graphs = {"ours": _captured(works["ours"]), "capturable": _captured_by_torch(works["capturable"])}
    replayed = in_turns(graphs, repeats)
    return {
        "size": size, "seconds": times, "seconds_in_graphs": replayed,
        "ours_over_fused": times["ours"] / times["fused"],
        "ours_over_capturable": times["ours"] / times["capturable"],
        "ours_over_capturable_in_graphs": replayed["ours"] / replayed["capturable"],
    }  # fmt: skip


def _captured(work: Work) -> Work:
    stream = cupy.cuda.Stream(non_blocking=True)
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


def launch_costs() -> dict[str, float]:
    """Microseconds of Python for a step of 1,000 parameters, which the device does in less."""
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
    return {name: _host_microseconds(work) for name, work in works.items()}


def _host_microseconds(work: Work) -> float:
    turns = []
    for _ in range(20):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        for _ in range(50):  # fewer than the queue holds: launching does not wait then
            work()
        turns.append((time.perf_counter() - start) / 50)
    return median(turns[1:]) * 1e6


# --- fits -------------------------------------------------------------------------------------------------------------


def fits(clock: Clock) -> list[dict[str, Any]]:
    """Seconds of an epoch, ours and PyTorch's, data on the device; the first epochs, which compile, do not count."""
    results = []
    for case, (units, batch) in FITS.items():
        rng = np.random.default_rng(0)
        X = rng.standard_normal((N_SAMPLES, units[0])).astype(np.float32)
        y = np.tanh(X[:, :10]).sum(axis=1).astype(np.float32)
        found: dict[str, Any] = {"case": case, "units": units, "batch": batch, "seconds_an_epoch": {}}
        kinds = {"ours, cuda": (_our_epoch, "cuda"), "ours, cpu": (_our_epoch, "cpu")}
        if torch is not None:
            kinds |= {f"PyTorch, {kind}": (_their_epoch, kind) for kind in ("graphed", "eager", "compiled")}
        contenders = {name: partial(epoch, kind, X, y, units, batch) for name, (epoch, kind) in kinds.items()}
        for name, epoch in contenders.items():
            if clock.allows(f"{name}, {case}", 30):
                try:
                    found["seconds_an_epoch"][name] = epoch()
                except Exception as error:  # one contender less is no reason to lose what was measured
                    found.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"
        results.append(found)
        print(found, flush=True)
        _free()
    return results


def _our_epoch(device: str, X: Any, y: Any, units: tuple[int, ...], batch: int) -> float:
    times: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPRegressor(units[1:-1], batch_size=batch, max_iter=1, random_state=0, device=device, warm_start=True)
        model.fit(X, y)
        for epochs in (1, 1 + EPOCHS):  # the difference is of epochs alone: no copy of the data, no compilation
            start = time.perf_counter()
            model.set_params(max_iter=epochs).fit(X, y)
            times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / EPOCHS


def _their_epoch(kind: str, X: Any, y: Any, units: tuple[int, ...], batch: int) -> float:
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
    return (time.perf_counter() - start) / EPOCHS


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


# --- all of it --------------------------------------------------------------------------------------------------------


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


def main(name: str) -> None:
    """Measure everything and write it down."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise SystemExit(f"the machine's name must be of letters, digits, '.', '_' and '-', got {name!r}")
    if cupy is None or not is_available():
        raise SystemExit("this needs a GPU, its driver, and the extra `cuda`")
    clock, bandwidth = Clock(), copy_bandwidth()
    results: dict[str, Any] = {"machine": machine(), "copy_bytes_a_second": bandwidth}
    path = Path(__file__).parent / "results" / f"gpu-{name}.json"
    parts: dict[str, Callable[[], Any]] = {
        "beside_pytorch": lambda: beside_pytorch(clock),
        "launch_microseconds": launch_costs,
        "fits": lambda: fits(clock),
        "steps": lambda: step_rates(clock, bandwidth),
    }
    for part, measure in parts.items():
        results[part] = measure()
        path.write_text(json.dumps(results, indent=1) + "\n")  # what is measured stays, whatever the next part does
    print(f"written: {path}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m bench.gpu NAME")
    main(sys.argv[1])

"""Optimizer steps compared with PyTorch's: the time of PyTorch's step over that of the same step of fastadam.

Run `python -m bench.torch_step` on an idle machine; it requires PyTorch. The script prints a Markdown table of the
median ratios over alternating turns.
"""

import os
import time
from statistics import median

import numpy as np
import torch

import fastadam
from bench.common import ratio
from fastadam.interop import torch as interop

ROUNDS = 15
MAX_NORM, EMA_DECAY, WEIGHT_DECAY = 1.0, 0.999, 0.01


def gradients(count, size):
    """Return gradients large enough that no moment becomes denormal."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size).astype(np.float32) for _ in range(count)]


def torch_parameters(grads):
    """Return parameters whose gradients are copies in separate memory."""
    parameters = []
    for grad in grads:
        parameters.append(torch.nn.Parameter(torch.ones(grad.shape)))
        parameters[-1].grad = torch.from_numpy(grad.copy())
    return parameters


def everything(size):
    """Measure a step with clipping, decoupled weight decay, averaging of the parameters and zeroing of the gradient."""
    (source,) = gradients(1, size)
    array, grad = np.ones_like(source), np.empty_like(source)
    ours = fastadam.AdamW(array, weight_decay=WEIGHT_DECAY, max_norm=MAX_NORM, ema_decay=EMA_DECAY, zero_grad=True)

    model = torch.nn.ParameterList(torch_parameters([source]))
    theirs = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    average.update_parameters(model)  # the first update only copies

    def their_step():
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        theirs.step()
        average.update_parameters(model)
        theirs.zero_grad(set_to_none=False)

    def seconds(step, filled):
        filled[...] = source
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    turns = [(lambda: ours.step(grad), grad), (their_step, model[0].grad.numpy())]
    ratios = []
    for k in range(ROUNDS + 1):
        mine, other = [seconds(*turn) for turn in (turns if k % 2 else reversed(turns))][:: 1 if k % 2 else -1]
        ratios.append(other / mine)
    np.testing.assert_allclose(array, model[0].detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(ours.state["ema"], average.module[0].detach().numpy(), rtol=1e-4)
    return median(ratios[1:])  # the first round compiles


def arrays(count, size):
    """Measure `fastadam.Adam` on a list of arrays."""
    grads = gradients(count, size)
    ours = fastadam.Adam([np.ones_like(grad) for grad in grads])
    return 1 / ratio(lambda: ours.step(grads), torch.optim.Adam(torch_parameters(grads), fused=True).step, ROUNDS)


def tensors(count, size):
    """Measure `fastadam.interop.torch.Adam` on PyTorch's parameters."""
    grads = gradients(count, size)
    ours = interop.Adam(torch_parameters(grads))
    return 1 / ratio(ours.step, torch.optim.Adam(torch_parameters(grads), fused=True).step, ROUNDS)


ROWS = [
    ("clip, decay, average, zero", "`fastadam.AdamW`", everything, (10_000_000,), "2.5"),
    ("1,000 tensors of 1,000", "`fastadam.Adam`", arrays, (1_000, 1_000), "10"),
    ("1,000 tensors of 1,000", "`interop.torch.Adam`", tensors, (1_000, 1_000), "10"),
    ("10 tensors of 10", "`interop.torch.Adam`", tensors, (10, 10), ""),
    ("10 tensors of 1,000", "`interop.torch.Adam`", tensors, (10, 1_000), ""),
    ("10 tensors of 100,000", "`interop.torch.Adam`", tensors, (10, 100_000), ""),
    ("1 tensor of 10,000,000", "`interop.torch.Adam`", tensors, (1, 10_000_000), ""),
]


def main():
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32, load {os.getloadavg()[0]:.1f}\n")
    print("| step | fastadam | fused PyTorch over fastadam | goal |\n| --- | --- | ---: | ---: |")
    for what, ours, measure, sizes, wanted in ROWS:
        print(f"| {what} | {ours} | {measure(*sizes):.2f} | {wanted} |", flush=True)


if __name__ == "__main__":
    main()

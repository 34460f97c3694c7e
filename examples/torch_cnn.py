"""Convolutional network for handwritten digits in PyTorch, trained by fastadam's AdamW and by PyTorch's.

Run `python examples/torch_cnn.py`, which requires PyTorch. It prints the loss of every epoch with both optimizers,
which agree to all digits shown, and the seconds that the steps took.
"""

import time
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from fastadam.interop.torch import AdamW

EPOCHS, BATCH = 5, 64


def network() -> nn.Module:
    """Return four convolutions and a linear layer, with the same initial weights in each call."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, kernel_size=3, padding=1, stride=1 + (before == after)), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 2 * 2, 10)).double()


def train(optimizer_class: Any, images: torch.Tensor, labels: torch.Tensor) -> tuple[list[float], float]:
    """Return the mean loss of each epoch, and the seconds that all steps of the optimizer took."""
    model = network()
    optimizer = optimizer_class(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    losses, seconds = [], 0.0
    for _ in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            start = time.perf_counter()
            optimizer.step()
            seconds += time.perf_counter() - start
            total += loss.item() * len(rows)
        schedule.step()
        losses.append(total / len(images))
    return losses, seconds


def main() -> None:
    """Train with both optimizers, and print the losses and seconds."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).unsqueeze(1)
    labels = torch.from_numpy(digits.target)
    train(AdamW, images[:BATCH], labels[:BATCH])  # compiles the step, or loads it
    (ours, our_seconds), (theirs, their_seconds) = (train(c, images, labels) for c in (AdamW, torch.optim.AdamW))
    print("epoch      fastadam       PyTorch")
    for epoch, losses in enumerate(zip(ours, theirs, strict=True), start=1):
        print(f"{epoch:5}  {losses[0]:12.8f}  {losses[1]:12.8f}")
    print(f"steps  {our_seconds:10.3f} s  {their_seconds:10.3f} s")


if __name__ == "__main__":
    main()

"""Gradient descent ends at the edge of stability: sharpness rises to 2 / learning rate and stays there.

    python examples/progressive_sharpening.py [STEPS] [LEARNING_RATE]

A small tanh network on scikit-learn's handwritten digits, squared loss, full-batch gradient descent, as in Cohen, Kaur,
Li, Kolter, Talwalkar, "Gradient descent on neural networks typically occurs at the edge of stability", ICLR 2021.
Prints a table, and writes sharpening.csv, and sharpening.png where matplotlib is installed.
"""

import sys

import torch
from sklearn.datasets import load_digits

from curvkit_core import CurvatureTracker, MSELoss, Problem


def digits(examples: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and one-hot labels."""
    data = load_digits()
    images = torch.tensor(data.data[:examples], dtype=torch.float32) / 16.0
    labels = torch.tensor(data.target[:examples])
    return images - images.mean(0), torch.nn.functional.one_hot(labels, 10).float()


def train(steps: int, learning_rate: float, every: int = 20) -> CurvatureTracker:
    """Descend, and follow the curvature."""
    images, targets = digits()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    problem = Problem(model, [(images, targets)], MSELoss())
    tracker = CurvatureTracker(problem, k=2, every=every, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for step in range(steps):
        tracker(step, learning_rate)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(images), targets).backward()
        optimizer.step()
    return tracker


def main() -> None:
    """Run and show."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    learning_rate = float(sys.argv[2]) if len(sys.argv) > 2 else 4.0
    tracker = train(steps, learning_rate)
    print(f"2 / learning rate = {2.0 / learning_rate:.3f}")
    print("  step      loss  sharpness  lr x sharpness  gradient in the top 2")
    for row in tracker.rows:
        print(f"{row.step:6d}  {row.loss:.6f}  {row.sharpness:9.3f}  {row.stability:14.3f}  {row.overlap:21.2f}")
    tracker.save("sharpening.csv")
    try:
        tracker.figure(title="digits, full-batch gradient descent").savefig("sharpening.png")
    except ImportError as error:
        print(error)


if __name__ == "__main__":
    main()

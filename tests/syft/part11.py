"""PySyft's tutorial part 11, secure deep learning classification, with its import changed and nothing else.

The notebook's cells are functions here, so that a test can call them; `data`, `epochs` and `n_test_batches` are what
the notebook has as constants.
"""

import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F  # noqa: N812
from torchvision import datasets, transforms

from moiety_client import syft as sy  # the original: import syft as sy


class Arguments:
    def __init__(self, epochs):
        self.batch_size = 64
        self.test_batch_size = 50
        self.epochs = epochs
        self.lr = 0.001
        self.log_interval = 100


def loaders(args, data):
    train_loader = torch.utils.data.DataLoader(
        datasets.MNIST(
            data,
            train=True,
            transform=transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]),
        ),
        batch_size=args.batch_size,
        shuffle=True,
    )
    test_loader = torch.utils.data.DataLoader(
        datasets.MNIST(
            data,
            train=False,
            transform=transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]),
        ),
        batch_size=args.test_batch_size,
        shuffle=True,
    )
    return train_loader, test_loader


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x):
        x = x.view(-1, 784)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.fc2(x)
        return x


def train(args, model, train_loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        optimizer.zero_grad()
        output = model(data)
        output = F.log_softmax(output, dim=1)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        if batch_idx % args.log_interval == 0:
            print(
                "Train Epoch: {} [{}/{} ({:.0f}%)]\tLoss: {:.6f}".format(
                    epoch,
                    batch_idx * args.batch_size,
                    len(train_loader) * args.batch_size,
                    100.0 * batch_idx / len(train_loader),
                    loss.item(),
                )
            )


def test_plain(args, model, test_loader):
    model.eval()
    test_loss = 0
    correct = 0
    with torch.no_grad():
        for data, target in test_loader:
            output = model(data)
            output = F.log_softmax(output, dim=1)
            test_loss += F.nll_loss(output, target, reduction="sum").item()  # sum up batch loss
            pred = output.argmax(1, keepdim=True)  # get the index of the max log-probability
            correct += pred.eq(target.view_as(pred)).sum().item()

    test_loss /= len(test_loader.dataset)

    print(
        "\nTest set: Average loss: {:.4f}, Accuracy: {}/{} ({:.0f}%)\n".format(
            test_loss, correct, len(test_loader.dataset), 100.0 * correct / len(test_loader.dataset)
        )
    )


def test(args, model, test_loader):
    model.eval()
    n_correct_priv = 0
    n_total = 0
    n_correct = 0
    with torch.no_grad():
        for data, target in test_loader:
            output = model(data)
            pred = output.argmax(dim=1)
            n_correct_priv += pred.eq(target.view_as(pred)).sum()
            n_total += args.test_batch_size

            n_correct = n_correct_priv.copy().get().float_precision().long().item()

            print(
                "Test set: Accuracy: {}/{} ({:.0f}%)".format(
                    n_correct,
                    n_total,
                    100.0 * n_correct / n_total,
                )
            )
    return n_correct


def main(data="../data", epochs=10, n_test_batches=10):
    hook = sy.TorchHook(torch)
    sy.VirtualWorker(hook, id="client")
    bob = sy.VirtualWorker(hook, id="bob")
    alice = sy.VirtualWorker(hook, id="alice")
    crypto_provider = sy.VirtualWorker(hook, id="crypto_provider")
    args = Arguments(epochs)
    train_loader, test_loader = loaders(args, data)

    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(1, args.epochs + 1):
        train(args, model, train_loader, optimizer, epoch)
    test_plain(args, model, test_loader)

    # The notebook shares before it trains. Here it comes after, so that all that is not plaintext is measured.
    started = time.monotonic()
    plain_test_loader, private_test_loader = [], []
    for data, target in test_loader:
        plain_test_loader.append((data, target))
        private_test_loader.append(
            (
                data.fix_precision().share(alice, bob, crypto_provider=crypto_provider),
                target.fix_precision().share(alice, bob, crypto_provider=crypto_provider),
            )
        )
    n_plain = sum(
        model(data).argmax(dim=1).eq(target).sum().item() for data, target in plain_test_loader[:n_test_batches]
    )

    model.fix_precision().share(alice, bob, crypto_provider=crypto_provider)
    n_correct = test(args, model, private_test_loader[:n_test_batches])
    print(
        f"in the clear: {n_plain}; encrypted: {n_correct}; {time.monotonic() - started:.1f} s, five processes started"
    )
    return n_plain, n_correct


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(number) for number in sys.argv[2:4]))

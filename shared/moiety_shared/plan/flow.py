"""What every run of a plan begins with: which layers wait for which wires, and how much work follows each layer."""

from collections.abc import Iterable, Sequence

from moiety_shared.plan.layers import Layer

_COMPARISON_WORK = 100  # a comparison costs about as much as that many multiply-adds


class Flow:
    """`readers` has the numbers of the layers that read each wire, rising, by wire. `last_reader` has the last of them
    by name, but for the output, which is needed at the end. `unread` says how often each wire is read, the output once
    more for that. `waits` says for how many wires each layer waits, in the layers' order. `work` says about how many
    operations on each row follow once a layer's openings are open, by layer."""

    def __init__(self, wires: Iterable[str], layers: Sequence[Layer], output: str) -> None:
        readers: dict[str, list[int]] = {name: [] for name in wires}
        for number, layer in enumerate(layers):
            for name in set(layer.reads):
                readers[name].append(number)
        self.readers = {name: tuple(numbers) for name, numbers in readers.items()}
        self.last_reader = {name: layers[numbers[-1]].name for name, numbers in readers.items() if numbers}
        self.last_reader.pop(output, None)
        self.unread = {name: len(numbers) + (name == output) for name, numbers in readers.items()}
        self.waits = tuple(len(set(layer.reads)) for layer in layers)
        self.work = {
            layer.name: _COMPARISON_WORK * layer.comparisons
            + sum(one.multiply_adds for one in (layer, *(layers[number] for number in readers[layer.name])))
            for layer in layers
        }

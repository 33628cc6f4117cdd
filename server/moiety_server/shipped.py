"""The models that the package ships, as sources of what is published."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from moiety_server import tensor_files, texts, weight_files
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.source import ModelSource
from moiety_server.tensor_files import Calibration
from moiety_server.zoo import characters, network, samples, topics
from moiety_shared.messages.catalogue import Preprocessing

NAMES = (*network.NETWORKS, topics.NAME, characters.NAME)
_SHOWN = 64  # texts that calibrate a model: enough to see how far its values reach


def load(name: str, weights: Path | None, calibration: Path | None, secret_embedding: bool) -> ModelSource:
    """Load a shipped model, with weights of a file and calibration data of one where they are named. Models of texts
    have docstrings of the running Python for that. Raises NotServable."""
    given = None if calibration is None else tensor_files.read(calibration)
    file = weights or samples.FOLDER / f"{name}.safetensors"
    if name == characters.NAME:
        return _characters(file, given, secret_embedding)
    if name == topics.NAME:
        return _topics(file, given, secret_embedding)
    source = _network(name, file)
    return source if given is None else replace(source, calibration=given)


def _network(name: str, weights: Path) -> ModelSource:
    kind = network.NETWORKS[name]
    pixels, _ = samples.images()
    return ModelSource(
        name=name,
        model=weight_files.with_weights(network.build(name), weights),
        calibration=network.normalise(pixels, name),
        low=(0 - network.MEAN) / network.STD,
        high=(1 - network.MEAN) / network.STD,
        preprocessing=Preprocessing(
            channels=1, size=(28, 28), mean=(network.MEAN,), std=(network.STD,), polarity="light-on-dark"
        ),
        classes=tuple(str(digit) for digit in range(10)),
        description=kind.description,
    )


def _characters(weights: Path, given: Calibration | None, secret_embedding: bool) -> ModelSource:
    model = weight_files.with_weights(characters.CharacterGPT(), weights)
    if given is None:
        try:
            given, _ = characters.contexts(characters.text_of(characters.SHOWN), _SHOWN)
        except OSError as error:
            raise NotServable(f"{error}: give contexts of {characters.LENGTH} ids with --calibration") from None
    tokenizer = texts.ShippedTokenizer(characters.tokenizer(), len(characters.ALPHABET))
    source = texts.of_module(characters.NAME, model, given, tokenizer, secret=secret_embedding)
    return replace(source, classes=tuple(characters.ALPHABET), description=characters.DESCRIPTION)


def _topics(weights: Path, given: Calibration | None, secret_embedding: bool) -> ModelSource:
    weight_files.refuse_pickles(weights)
    tensors, known = weight_files.read(weights), topics.words_in(weights)
    if not known:
        raise NotServable(f"{shown(weights.name)} names no words: `moiety train --network {topics.NAME}` writes them")
    model = weight_files.loaded(topics.TopicEncoder(len(known)), tensors, weights)
    if given is None:
        try:
            given = _ids((text for text, _ in topics.texts(topics.SHOWN, held_out=False)), known)
        except OSError as error:
            raise NotServable(f"{error}: give texts of {topics.LENGTH} ids with --calibration") from None
    tokenizer = texts.ShippedTokenizer(topics.tokenizer(known), len(known), topics.PADDING)
    source = texts.of_module(topics.NAME, model, given, tokenizer, secret=secret_embedding)
    return replace(source, classes=tuple(topics.TOPICS), description=topics.DESCRIPTION)


def _ids(found: Iterable[str], known: dict[str, int]) -> Tensor:
    """The ids of some texts, of all files alike."""
    every = list(found)
    step = max(len(every) // _SHOWN, 1)
    return torch.tensor([topics.ids_of(text, known) for text in islice(every, 0, None, step)][:_SHOWN])

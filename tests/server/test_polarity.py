"""The owner declares the polarity of grey pictures, and shipped models declare theirs."""

import pytest

from moiety_server import sources
from moiety_server.compiler.ir import NotServable
from moiety_server.zoo import network
from moiety_shared.messages.catalogue import Preprocessing


@pytest.mark.parametrize("name", network.NETWORKS)
def test_shipped_models_declare_theirs(name: str) -> None:
    how = sources.load(name).preprocessing
    assert isinstance(how, Preprocessing) and how.polarity == "light-on-dark"


def test_the_owner_says_another() -> None:
    source = sources.load("mnist")
    assert source.polarised(None) is source
    how = source.polarised("dark-on-light").preprocessing
    assert isinstance(how, Preprocessing) and how.polarity == "dark-on-light"
    with pytest.raises(NotServable, match="light-on-dark or dark-on-light"):
        source.polarised("dark")
    colours = sources.replace(source, preprocessing=sources.torchvision_preprocessing("resnet18", (8, 8), False))
    for other in (colours, sources.replace(source, preprocessing=None)):
        with pytest.raises(NotServable, match="takes no grey pictures: leave --polarity out"):
            other.polarised("dark-on-light")

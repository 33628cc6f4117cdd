"""Folders in which Hugging Face's library saves a model: config.json, model.safetensors, and files beside them.

They are read as data. Nothing of a folder runs: no pickle, no code, and no name in it is imported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from moiety_server import tensor_files
from moiety_server.checkpoints.names import renamed
from moiety_server.checkpoints.transformers import Activation, EncoderShape, PictureClassifier, TextClassifier
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.tensor_files import Calibration
from moiety_service import files
from moiety_shared.messages.catalogue import Preprocessing

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS, _PICTURES = "model.safetensors", "preprocessor_config.json"
_MOST = 1 << 22  # bytes of a file of JSON: 1,000 classes take 50,000
_INTERPOLATIONS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_INSTEAD = "Instead: name a function that returns the torch module, mymodule:function"

Size = Annotated[int, Field(ge=1, le=1 << 20)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


class FolderConfig(BaseModel):
    """What the config.json of every kind says. Members that are not named are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    architectures: tuple[str, ...]
    id2label: dict[int, str] = {0: "LABEL_0", 1: "LABEL_1"}
    problem_type: str | None = None
    pad_token_id: int | None = Field(0, ge=0)

    @property
    def named_classes(self) -> tuple[str, ...]:
        """The classes' names in the order of their scores. Nobody named those that are LABEL_0 and so on."""
        names = tuple(self.id2label[at] for at in sorted(self.id2label))
        return () if len(names) == 1 or names == tuple(f"LABEL_{at}" for at in range(len(names))) else names


class EncoderFolder(FolderConfig):
    """What BERT and ViT say of their layers in the same words."""

    hidden_size: Size
    num_attention_heads: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    hidden_act: Activation
    layer_norm_eps: Epsilon

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            self.num_hidden_layers,
            self.hidden_act,
            self.layer_norm_eps,
        )


class BertFolder(EncoderFolder):
    model_type: Literal["bert"]
    vocab_size: Size
    max_position_embeddings: Size
    type_vocab_size: Size
    position_embedding_type: Literal["absolute"] = "absolute"

    def build(self) -> nn.Module:
        return TextClassifier(
            self.shape,
            words=self.vocab_size,
            positions=self.max_position_embeddings,
            types=self.type_vocab_size,
            classes=len(self.id2label),
            pad_id=self.pad_token_id or 0,
        )


class DistilBertFolder(FolderConfig):
    model_type: Literal["distilbert"]
    vocab_size: Size
    max_position_embeddings: Size
    width: Size = Field(validation_alias=AliasChoices("dim", "hidden_size"))
    heads: Size = Field(validation_alias=AliasChoices("n_heads", "num_attention_heads"))
    hidden: Size = Field(validation_alias=AliasChoices("hidden_dim", "intermediate_size"))
    layers: Layers = Field(validation_alias=AliasChoices("n_layers", "num_hidden_layers"))
    activation: Activation

    @property
    def shape(self) -> EncoderShape:
        """No config.json of this kind states an epsilon."""
        return EncoderShape(self.width, self.heads, self.hidden, self.layers, self.activation, 1e-12)

    def build(self) -> nn.Module:
        return TextClassifier(
            self.shape,
            words=self.vocab_size,
            positions=self.max_position_embeddings,
            types=0,
            classes=len(self.id2label),
            pad_id=self.pad_token_id or 0,
        )


class VitFolder(EncoderFolder):
    model_type: Literal["vit"]
    image_size: Size
    patch_size: Size
    num_channels: Literal[1, 3]
    qkv_bias: bool

    def build(self) -> nn.Module:
        return PictureClassifier(
            self.shape,
            side=self.image_size,
            patch=self.patch_size,
            channels=self.num_channels,
            classes=len(self.id2label),
            bias=self.qkv_bias,
        )


_CONFIG: TypeAdapter[BertFolder | DistilBertFolder | VitFolder] = TypeAdapter(
    Annotated[BertFolder | DistilBertFolder | VitFolder, Field(discriminator="model_type")]
)
_ARCHITECTURES = {
    "bert": "BertForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "vit": "ViTForImageClassification",
}


class _Pictures(BaseModel):
    """A preprocessor_config.json."""

    do_resize: bool = True
    do_normalize: bool = True
    do_center_crop: bool = False
    size: dict[str, int] | int = 224
    crop_size: dict[str, int] | int | None = None
    resample: int = 2
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class SavedFolder:
    """A saved model: the module with its weights, and what the folder says of it.

    `tokenizer` is the path of its tokenizer.json, if there is one, and `preprocessing` says how pictures are prepared,
    if the folder does.
    """

    name: str
    config: BertFolder | DistilBertFolder | VitFolder
    module: nn.Module
    tokenizer: Path | None
    preprocessing: Preprocessing | None

    @property
    def length(self) -> int | None:
        """The most ids that the model takes, None for one of pictures."""
        return None if isinstance(self.config, VitFolder) else self.config.max_position_embeddings


def is_folder(path: Path) -> bool:
    """Whether somebody saved a model there."""
    return (path / CONFIG).is_file()


def read(path: Path) -> SavedFolder:
    """Read a folder. Raises NotServable, with what to do, for one that is not served."""
    config = _config(path)
    if not (path / _WEIGHTS).is_file():
        raise NotServable(
            f"{shown(path.name)} has no {_WEIGHTS}. Instead: save it with save_pretrained(folder, "
            "safe_serialization=True), in one file"
        )
    with torch.device("meta"):  # config.json may state any sizes: only what the weights' file holds takes memory
        module = config.build()
    try:
        weights = renamed(config.model_type, tensor_files.tensors(path / _WEIGHTS))
        module.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise NotServable(f"{_WEIGHTS} does not fit {CONFIG}: {tensor_files.reason(error)}") from error
    tokenizer = path / TOKENIZER
    return SavedFolder(
        name=path.resolve().name.lower(),
        config=config,
        module=module.train(False),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        preprocessing=_preprocessing(path / _PICTURES, config) if isinstance(config, VitFolder) else None,
    )


def ids_of(saved: SavedFolder, given: Calibration) -> dict[str, Tensor]:
    """Return a text model's calibration data by the names of its inputs. The model makes the mask of padding of its
    ids, so a mask that says the same is left out.

    Raises NotServable.
    """
    named = {"input_ids": given} if isinstance(given, Tensor) else dict(given)
    ids, mask = named.get("input_ids"), named.pop("attention_mask", None)
    if ids is None or ids.is_floating_point():
        raise NotServable(
            f"{saved.name} takes ids of tokens: pass input_ids, whole numbers (n, length), or lines of text"
        )
    if mask is not None and not torch.equal(mask != 0, ids != (saved.config.pad_token_id or 0)):
        raise NotServable("attention_mask is not 0 where input_ids have the id of padding, and 1 elsewhere")
    if saved.length is not None and ids.shape[1] > saved.length:
        raise NotServable(
            f"{saved.name} takes {saved.length} ids at most, and the calibration data has {ids.shape[1]}: cut texts off"
        )
    return named


def _config(path: Path) -> BertFolder | DistilBertFolder | VitFolder:
    try:
        text = files.content(path / CONFIG, _MOST)
        config = _CONFIG.validate_json(text)
    except OSError as error:
        raise NotServable(f"{CONFIG} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise NotServable(f"{shown(path.name)}: {CONFIG}: {_first(error)}. {_INSTEAD}") from None
    except ValueError as error:
        raise NotServable(f"{shown(path.name)}: {CONFIG} {shown(str(error), 200)}") from None
    wanted = _ARCHITECTURES[config.model_type]
    if config.architectures != (wanted,):
        found = shown(", ".join(config.architectures))
        raise NotServable(f"{shown(path.name)} holds {found}, and of this kind {wanted} is served. {_INSTEAD}")
    if sorted(config.id2label) != list(range(len(config.id2label))) or not config.id2label:
        raise NotServable(f"{shown(path.name)}: {CONFIG} numbers its classes otherwise than 0, 1, 2 and so on")
    if config.problem_type == "multi_label_classification":
        raise NotServable(f"{shown(path.name)} answers several labels at once, which are no classes. {_INSTEAD}")
    fits = config.shape.width % config.shape.heads == 0
    if isinstance(config, VitFolder):
        fits = fits and config.image_size % config.patch_size == 0
    else:
        fits = fits and (config.pad_token_id or 0) < config.vocab_size
    if not fits:
        raise NotServable(f"{shown(path.name)}: the sizes in {CONFIG} do not divide as they have to")
    return config


def _first(error: ValidationError) -> str:
    """Say what is wrong with a file first, and where."""
    wrong = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in wrong["loc"] if part not in _ARCHITECTURES)
    return shown(f"{place}: {wrong['msg']}".removeprefix(": "), 200)


def _preprocessing(path: Path, config: VitFolder) -> Preprocessing | None:
    """Return how pictures are prepared, or None where the folder does not say so, or does it in another way."""
    if not path.is_file():
        return None
    try:
        how = _Pictures.model_validate_json(files.content(path, _MOST))
    except (OSError, ValueError) as error:
        raise NotServable(f"{path.name}: {shown(str(error), 200)}") from None
    side = config.image_size
    channels = config.num_channels
    kept = how.do_resize and how.do_normalize and not how.do_center_crop and how.resample in _INTERPOLATIONS
    fits = _sides(how.size) == (side, side) and len(how.image_mean) == len(how.image_std) == channels
    if not kept or not fits:
        return None
    return Preprocessing(
        channels=channels,
        size=(side, side),
        mean=how.image_mean,
        std=how.image_std,
        interpolation=_INTERPOLATIONS[how.resample],
    )


def _sides(size: Any) -> tuple[int, int] | None:
    """Return height and width, where the whole picture becomes them."""
    if isinstance(size, int):
        return size, size
    return (size["height"], size["width"]) if set(size) == {"height", "width"} else None

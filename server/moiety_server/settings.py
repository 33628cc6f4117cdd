"""Settings of the model owner: `MOIETY_SERVER_*`."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from moiety_service.http.origins import Origins
from moiety_service.settings import RoleSettings


class ServerSettings(RoleSettings):
    model_config = SettingsConfigDict(env_prefix="MOIETY_SERVER_", frozen=True, extra="ignore")

    port: int = Field(7700, ge=0, le=65535, description="Port to listen on.")
    alice_url: str = Field("https://127.0.0.1:7701", description="alice's URL. Catalogue entries give it to clients.")
    bob_url: str = Field("https://127.0.0.1:7702", description="bob's URL.")
    url: str = Field(
        "https://127.0.0.1:7700",
        description="The catalogue's URL for clients. `moiety token issue` writes it into access files.",
    )
    origins: Origins = Field(
        (),
        description="Origins of pages that may read the catalogue in a browser, separated by commas: "
        "`https://app.example,https://other.example:8443`.",
    )
    page: bool = Field(
        False,
        description="Serve a web page on which visitors ask the models, from their own browsers. alice must have this "
        "server's origin among hers.",
    )
    mnist_dir: Path = Field(
        Path("data"),
        description="Folder that holds MNIST/raw, as torchvision lays it out. `moiety train` downloads it if need be.",
    )

    @model_validator(mode="after")
    def _encrypted_links(self) -> Self:
        self.check_link("alice's URL", self.alice_url)
        self.check_link("bob's URL", self.bob_url)
        return self

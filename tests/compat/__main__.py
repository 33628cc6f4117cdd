"""Write what this version writes into a folder of its name. Run once, when a version is released."""

import shutil
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from moiety_party.objects import objects
from moiety_party.store import ModelStore
from moiety_service.security.keyring import Keyring
from moiety_shared.messages.access import AccessFile
from tests.compat.test_compat import MESSAGES, ROOT, SEALED, STORAGE_KEY, TOKEN, a_run
from tests.fuzz.targets import TARGETS
from tests.party.test_store import stored


def write(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in MESSAGES:
        (folder / "messages" / name).mkdir(parents=True)
        for number, raw in enumerate(TARGETS[name].seeds()):
            (folder / "messages" / name / str(number)).write_bytes(raw)
    ModelStore(objects(None, folder), STORAGE_KEY).put(stored())
    keyring = Keyring(folder / "sealing")
    old = keyring.rotate(timedelta(days=36500))
    (folder / "envelope").write_bytes(old.seal(*SEALED))
    keyring.rotate(timedelta(days=36500))
    access = AccessFile(catalogue_url="https://owner.example", owner_key="k", ca="PEM", token=TOKEN)
    (folder / "access-file.json").write_text(access.model_dump_json())
    a_run(folder / "run.jsonl", first=2)


write(ROOT / version("moiety"))

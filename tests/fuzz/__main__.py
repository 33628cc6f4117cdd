"""A longer run: `python -m tests.fuzz [TARGET ...]`, `FUZZ_SECONDS` (60) for each.

What breaks a parser is written to the corpus, where the tests find it from then on. With atheris the search follows
coverage; without it, hypothesis mutates.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time

SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
_ONE = "--one"


def main() -> int:
    from tests.fuzz.targets import TARGETS

    names = sys.argv[1:] or list(TARGETS)
    failed = []
    for name in names:
        print(f"fuzzing {name} for {SECONDS} s", flush=True)
        if subprocess.run([sys.executable, "-m", "tests.fuzz", _ONE, name]).returncode:
            failed.append(name)
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed" + "".join(f"\n  {name}" for name in failed))
    return bool(failed)


def one(name: str) -> None:
    if importlib.util.find_spec("atheris"):
        with_atheris(name)
    else:
        with_hypothesis(name)


def with_atheris(name: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["moiety_shared", "moiety_party"]):
        from tests.fuzz.targets import CORPUS, TARGETS, check
    kept = CORPUS / name
    with tempfile.TemporaryDirectory() as found:  # what the search itself collects is not kept
        options = [f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", "-timeout=10", f"-artifact_prefix={kept}/"]
        atheris.Setup(["fuzz", *options, found, str(kept)], lambda raw: check(TARGETS[name], raw))
        atheris.Fuzz()


def with_hypothesis(name: str) -> None:
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import CORPUS, TARGETS, check, corpus

    until = time.monotonic() + SECONDS

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated(corpus(name)))
    def run(raw: bytes) -> None:
        try:
            check(TARGETS[name], raw)
        except Exception:
            (CORPUS / name / "crash").write_bytes(raw)
            raise

    while time.monotonic() < until:
        run()


if __name__ == "__main__":
    if _ONE in sys.argv:
        one(sys.argv[-1])
    else:
        sys.exit(main())

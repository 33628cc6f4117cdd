"""Which processor this is, and which of its instructions matter to integer and float products."""

import os
import platform
from pathlib import Path

_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX"}


def described(told: str | None = None) -> str:
    """The processor's name, its cores, and its instruction sets, from what Linux tells in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    if told is None:
        told = path.read_text() if path.exists() else ""
    facts = dict(_fact(line) for line in told.partition("\n\n")[0].splitlines())
    flags = facts.get("flags", "").split()
    sets = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    name = facts.get("model name") or platform.processor() or platform.machine()
    model = f", family {facts['cpu family']} model {facts['model']}" if "model" in facts else ""
    return f"{name}{model}, {os.cpu_count()} cores, {', '.join(sets) or 'no known instruction sets'}"


def _fact(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()

"""Words that both tables of `medcli bench` use."""

from __future__ import annotations

CLOCKS = {
    "thread_cpu": "CPU time of the one thread",
    "wall": "wall time",
    "wall_synchronised": "wall time, the device idle before and after",
}
SLOWER = "slower"


def machine_words(machine: str, device: str, num_threads: int) -> str:
    """Where it ran; on a CPU with how many threads."""
    threads = f"{num_threads} thread{'s' if num_threads > 1 else ''}"
    return machine if device.startswith("cuda") else f"{machine}, {threads}"

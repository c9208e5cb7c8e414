"""What only a GPU can show: `pytest -n0 -m gpu tests/gpu`; skipped without one."""

"""Settings of commands as frozen dataclasses, one field per flag. Loads no torch."""

"""Files, locks, processes, devices, random numbers and reporting."""
